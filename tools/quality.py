#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the tables of docs/quality.md on the test bed.

    tools/quality.py TESTBED --rows rows.jsonl [--plan methods|rank|tokens|minutes|codes] [--limit N]
                             [--models small-math,tiny-chat] [--only LABELS] [--work DIR] [--device cuda]
    tools/quality.py --table --rows rows.jsonl

TESTBED holds models/, calib/ and eval/. Archives stay in the work directory, rows are added to the file: what
is there already is not measured again. On a GPU what calibrates and distils is compressed there, with as many steps as
on two threads of a CPU.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/bin/deltacome"
# Fine-tune -> task; its base is <family>-base. Tasks with an answer or results are generated too.
MODELS = {"small-math": "math", "small-code": "code", "small-chat": "chat", "tiny-math": "math", "tiny-chat": "chat"}
GENERATED = ("math", "code")
BUDGETS = {"small": (1.195, 0.65), "tiny": (1.25, 0.73)}  # bits per projection weight
FAST = ["--method", "auto", "--profile", "fast"]
# --distill of a GPU that gives the steps of a profile on two threads of a CPU (src/compress/options.cc).
GPU_MINUTES = {"small": {"balanced": 0.0968, "best": 0.2418}, "tiny": {"balanced": 0.1989, "best": 0.4972}}


def cases_of(plan, family, device):
    """(label, bits, options of compress) of a plan."""
    full, half = BUDGETS[family]

    def profile(name):
        steps = ["--distill", GPU_MINUTES[family][name]] if device else []
        return ["--profile", name, *steps]

    if plan == "rank":  # factors in 16 bits: rank r of n x n costs 32 r / n bits a weight
        return [(f"rank {share} n", 32 * share, ["--method", "lowrank"]) for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)]
    if plan == "tokens":
        return [(f"{n} tokens", full, [*FAST, "--calib-tokens", n]) for n in (4096, 16384, 65536, 262144)]
    if plan == "minutes":
        return [(f"{m} minutes", full, ["--distill", m]) for m in (0.25, 1, 4)]
    if plan == "codes":
        return [(f"{codes} codes", bits, [*FAST, "--codes", codes]) for bits in (full, half) for codes in ("lowrank", "whole", "auto")]
    return [("lowrank", full, ["--method", "lowrank"]), ("lowrank", half, ["--method", "lowrank"]),
            ("bitdelta", 1.01, ["--method", "bitdelta", "--distill", GPU_MINUTES[family]["balanced"] / 3 if device else 2]),
            ("come", full, ["--method", "come"]), ("come", half, ["--method", "come"]),
            ("auto, fast", full, FAST), ("auto, fast", half, FAST),
            ("auto, balanced", full, profile("balanced")), ("auto, balanced", half, profile("balanced")),
            ("auto, best", full, profile("best")), ("auto, best", half, profile("best"))]


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def score(args, bed, work, model, task, *candidate):
    family, generate = model.split("-")[0], args.plan == "methods"
    command = [args.program, "eval", "--base", bed / f"models/{family}-base", *candidate, "--reference", bed / f"models/{model}",
               "--data", bed / f"eval/{task}.jsonl", "--limit", args.limit, "--threads", args.threads, "--json"]
    if not generate or task not in GENERATED:
        command.append("--no-generate")
    elif task == "code":
        command += ["--generations", work / "completions.jsonl"]
    row = json.loads(run(*command))
    if generate and task == "code":
        row |= json.loads(run(sys.executable, ROOT / "tools/code_results.py", work / "completions.jsonl"))
    return row


def measure(args):
    bed, work = pathlib.Path(args.testbed), pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = pathlib.Path(args.rows)
    done = [json.loads(line) for line in open(rows)] if rows.exists() else []
    done = {(row["model"], row["method"], row["requested"]) for row in done}
    for model in args.models.split(","):
        task, family = MODELS[model], model.split("-")[0]
        base = bed / f"models/{family}-base"
        cases = []
        if args.plan == "methods":
            cases = [("base", 0, None, []), ("fine-tune", 16, None, ["--model", bed / f"models/{model}"])]
        for method, bits, options in cases_of(args.plan, family, args.device):
            if args.only and method not in args.only.split(";"):
                continue
            out = work / f"{model}-{method}-{bits}".replace(" ", "-").replace(",", "")
            if (model, method, bits) not in done and not out.exists():
                calib = [] if "lowrank" in options[:2] else ["--calib", bed / f"calib/{task}.jsonl"]
                device = ["--device", args.device] if args.device and options[1] not in ("come", "lowrank") else []
                run(args.program, "compress", "--base", base, "--finetuned", bed / f"models/{model}", "--out", out,
                    "--bits", bits, "--threads", args.threads, *options, *calib, *device)
            cases.append((method, bits, out, ["--delta", out]))
        for method, bits, archive, candidate in cases:
            if (model, method, bits) in done:
                continue
            row = {"model": model, "method": method, "requested": bits}
            if archive:
                info = json.loads(run(args.program, "inspect", archive, "--json"))
                row |= {"bits": info["bits_per_weight"], "all_in_bytes": info["all_in_bytes"]}
            row |= score(args, bed, work, model, task, *candidate)
            with open(rows, "a") as file:
                print(json.dumps(row), file=file)


def table(path):
    def cell(value, digits=4):
        return "" if value is None else f"{value:.{digits}f}"

    print("| fine-tune | method | bits | all-in bytes | NLL | KL | top-1 | EM | same results |\n|" + " --- |" * 9)
    for line in open(path):
        r = json.loads(line)
        print(f"| {r['model']} | {r['method']} | {cell(r.get('bits'), 3)} | {r.get('all_in_bytes', '')} | {cell(r['nll'])} | "
              f"{cell(r['kl'])} | {cell(r['top1'])} | {cell(r['exact_match'], 3)} | {cell(r.get('same_results'), 3)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed", nargs="?")
    parser.add_argument("--limit", default="1000")
    parser.add_argument("--plan", default="methods", choices=("methods", "rank", "tokens", "minutes", "codes"))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", help="labels of the plan, with ; between them")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--device", help="cuda: what calibrates and distils runs there")
    parser.add_argument("--program", default=PROGRAM)
    parser.add_argument("--work", default=ROOT / "build/quality")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        table(args.rows)
    elif args.testbed:
        measure(args)
    else:
        parser.error("give the test bed's directory, or --table")


if __name__ == "__main__":
    main()
