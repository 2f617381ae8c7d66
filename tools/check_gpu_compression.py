#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compresses on a GPU what a CPU compresses too, compares both, and times layers of the 7B shape.

    tools/check_gpu_compression.py [--program P] [--testbed DIR] [--scratch DIR] [--pair BASE FINETUNED TEXT HELD_OUT]...
                                   [--layers A B] [--distill MINUTES] [--no-7b] [--whole]

Without --pair: tiny-math of tests/data, and small-math of the test bed where it is. For each pair and
method the held-out KL of the GPU's archive must be within 10 % of the CPU's, and two runs on the GPU
must give the same bytes. The 7B shape is compressed with A and with B layers (1 and 3): what a whole
model takes is reckoned from the difference. Needs numpy for that part. --whole compresses a whole 7B
pair instead of all that, drawn on the GPU: needs torch and 32 GB of --scratch (/dev/shm).
"""
import argparse
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 0.1  # of the KL: one scale or plan that falls the other way moves it by some percent


def compress(program, out, base, finetuned, calibration, *options, device="cuda"):
    """(report, seconds by stage, in order). Stages are read from the progress line."""
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 400, 0, 0))
    command = [program, "compress", "--base", base, "--finetuned", finetuned, "--out", out, "--calib", calibration,
               "--device", device, "--json", *options]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=child, stdin=subprocess.DEVNULL)
    os.close(child)
    report = []
    reader = threading.Thread(target=lambda: report.append(process.stdout.read()))
    reader.start()
    stages, last, stage, text = {}, time.monotonic(), "reading", b""
    tail = b""
    while True:
        try:
            text += os.read(terminal, 1 << 16)
        except OSError:  # the program has closed it
            break
        tail = (tail + text)[-2000:]
        *lines, text = re.split(rb"[\r\n]", text)
        for line in lines:
            found = re.search(rb"\d+/\d+  (.*?)  [^ ]+(?: [^ ]+)* elapsed", line)
            if not found:
                continue
            now = time.monotonic()
            stages[stage] = stages.get(stage, 0) + now - last
            last, stage = now, re.sub(r"model\.layers\..*|[\d.]+.*", "", found[1].decode()).strip(" ,") or "layer"
    os.close(terminal)
    reader.join()
    stages[stage] = stages.get(stage, 0) + time.monotonic() - last
    if process.wait() != 0:
        sys.exit(f"{' '.join(str(c) for c in command)}\n{tail.decode(errors='replace')}")
    return json.loads(report[0]), stages


def held_out(report):
    fidelity = report.get("held_out") or report.get("fidelity") or {}
    if "kl" not in fidelity:
        sys.exit(f"no held-out KL among {sorted(report)}")
    return fidelity["kl"]


def compare(program, scratch, pair):
    base, finetuned, text, held = pair
    name, failed = pathlib.Path(finetuned).name, False
    for method, options in (("auto, no distillation", ["--profile", "fast"]), ("come", ["--method", "come"])):
        options = [*options, "--held-out", held, "--calib-tokens", "16384"]
        archives, kls, seconds = {}, {}, {}
        for run in ("cpu", "cuda", "cuda again"):
            out = archives[run] = scratch / f"{name}-{run.replace(' ', '-')}"
            shutil.rmtree(out, ignore_errors=True)
            report, _ = compress(program, out, base, finetuned, text, *options, device=run.split()[0])
            kls[run], seconds[run] = held_out(report), report["seconds"]
        same = all((archives["cuda"] / f).read_bytes() == (archives["cuda again"] / f).read_bytes()
                   for f in ("delta.safetensors",))
        near = abs(kls["cuda"] / kls["cpu"] - 1) <= TOLERANCE
        failed |= not near or not same
        print(f"{name:12} {method:24} KL cpu {kls['cpu']:.5f}  cuda {kls['cuda']:.5f}  {'ok' if near else 'FAR'}   "
              f"bytes of two runs {'equal' if same else 'DIFFER'}   {seconds['cpu']:.1f} s, {seconds['cuda']:.1f} s", flush=True)
        for device in ("cpu", "cuda"):
            result = subprocess.run([program, "eval", "--base", base, "--delta", archives["cuda"], "--reference", finetuned,
                                     "--data", held, "--device", device, "--json"], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                sys.exit(result.stderr)
            values = json.loads(result.stdout)
            print(f"{'':12} eval on {device:5} KL {values['kl']:.5f}  NLL {values['nll']:.5f}  top-1 {values['top1']:.4f}", flush=True)
    out = scratch / f"{name}-distilled"
    shutil.rmtree(out, ignore_errors=True)
    report, stages = compress(program, out, base, finetuned, text, "--held-out", held, "--calib-tokens", "16384", "--distill", "0.25")
    print(f"{name:12} {'auto, distilled':24} KL cuda {held_out(report):.5f}   {report['seconds']:.1f} s, of it distilling "
          f"{sum(s for k, s in stages.items() if k.startswith('distilling')):.1f} s (asked for 15)", flush=True)
    return failed


def print_stages(stages):
    for stage, seconds in sorted(stages.items(), key=lambda entry: -entry[1])[:20]:
        print(f"    {stage:40} {seconds:8.1f} s")


def whole(program, scratch, text, minutes):
    pair, out = scratch / "7b", scratch / "7b-out"
    started = time.monotonic()
    subprocess.run([sys.executable, ROOT / "tools/make_synthetic_pair.py", pair, "--preset", "7b", "--torch", "cuda"], check=True)
    enough = scratch / "text.jsonl"
    enough.write_bytes(pathlib.Path(text).read_bytes() * 4)
    print(f"7B pair made in {time.monotonic() - started:.1f} s", flush=True)
    report, stages = compress(program, out, pair / "base", pair / "finetuned", enough, "--calib-tokens", "65536", "--distill", str(minutes))
    print(f"whole 7B, {minutes} minutes of distillation: {report['seconds']:.1f} s, {report['peak_resident_bytes'] / 2**30:.2f} GiB resident "
          f"(pages of the files among them), {report['peak_device_bytes'] / 2**30:.2f} GiB of device memory, "
          f"{sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")
    for tried in report["tried"]:
        print(f"    {tried['name']:24} {tried['bits_per_weight']:.3f} bits  KL {tried['kl']:.5f}")
    print_stages(stages)


def synthetic(program, scratch, text, layers, minutes):
    totals, by_stage = {}, {}
    enough = scratch / "text.jsonl"
    enough.write_bytes(pathlib.Path(text).read_bytes() * 4)
    for n in layers:
        pair = scratch / f"7b-{n}"
        subprocess.run([sys.executable, ROOT / "tools/make_synthetic_pair.py", pair, "--preset", "7b", "--layers", str(n)], check=True)
        out = scratch / f"7b-{n}-out"
        shutil.rmtree(out, ignore_errors=True)
        report, stages = compress(program, out, pair / "base", pair / "finetuned", enough, "--calib-tokens", "65536",
                                  "--distill", str(minutes if n == layers[-1] else 0))
        totals[n], by_stage[n] = report["seconds"], stages
        print(f"7B shape, {n} layers: {report['seconds']:.1f} s, {report['peak_resident_bytes'] / 2**30:.2f} GiB resident", flush=True)
        for tried in report["tried"]:
            print(f"    {tried['name']:24} {tried['bits_per_weight']:.3f} bits  KL {tried['kl']:.5f}")
        shutil.rmtree(pair)
    first, last = layers
    print(f"\n{'stage':40} {first} layers  {last} layers  reckoned for 32")
    whole = 0
    for stage in by_stage[last]:
        a, b = by_stage[first].get(stage, 0), by_stage[last][stage]
        if stage.startswith("distilling"):
            print(f"{stage:40} {a:8.1f}  {b:8.1f}  as asked for")
            continue
        reckoned = max(0, a + (b - a) / (last - first) * (32 - first))
        whole += reckoned
        print(f"{stage:40} {a:8.1f}  {b:8.1f}  {reckoned:8.1f}")
    print(f"{'sum without distillation':40} {'':8}  {'':8}  {whole:8.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "build/cuda/bin/deltacome")
    parser.add_argument("--testbed", type=pathlib.Path, default=ROOT.parent / "shared/testbed")
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--pair", nargs=4, action="append", metavar=("BASE", "FINETUNED", "TEXT", "HELD_OUT"))
    parser.add_argument("--layers", nargs=2, type=int, default=[1, 3])
    parser.add_argument("--distill", type=float, default=0.5)
    parser.add_argument("--no-7b", action="store_true")
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    models, bed = ROOT / "tests/data/models", options.testbed
    pairs = options.pair
    if not pairs:
        data = ROOT / "tests/data"
        pairs = [(models / "tiny-base", models / "tiny-math", data / "calib/math.jsonl", data / "eval/math.jsonl")]
        if (bed / "models/small-math").exists():
            pairs.append((bed / "models/small-base", bed / "models/small-math", bed / "calib/math.jsonl", bed / "eval/math.jsonl"))
    with tempfile.TemporaryDirectory(dir=options.scratch or ("/dev/shm" if os.path.isdir("/dev/shm") else None)) as directory:
        scratch, failed = pathlib.Path(directory), False
        if options.whole:
            whole(str(options.program), scratch, pairs[0][2], options.distill)
            pairs, options.no_7b = [], True
        for pair in pairs:
            failed |= compare(str(options.program), scratch, pair)
        if not options.no_7b:
            synthetic(str(options.program), scratch, pairs[0][2], options.layers, options.distill)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
