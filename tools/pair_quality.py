#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compresses a full fine-tune by each method and scores the archives beside LoRA adapters of the same base.

    tools/pair_quality.py BASE TUNED --calib FILE --data FILE --bits 1.195,0.65 --rows rows.jsonl [--lora DIR]...
                          [--limit N] [--max-tokens 8] [--device cuda --distill MINUTES] [--jobs N] [--only LABELS] [--work DIR]

The pairs are those of tools/train_pairs.py; every row of the file is one of tools/quality.py, whose --table prints
it. Archives stay in the work directory. bytes of a LoRA are its safetensors file and its configuration.
"""
import argparse
import concurrent.futures
import json
import pathlib

from quality import PROGRAM, ROOT, run


def cases_of(args):
    """(method, bits, archive or adapter or None, options of compress or None)."""
    minutes = ["--distill", args.distill] if args.distill else []
    methods = {"bitdelta": ["--method", "bitdelta", *minutes], "come": ["--method", "come"],
               "auto, fast": ["--profile", "fast"], "auto, balanced": ["--profile", "balanced", *minutes]}
    yield "base", 0, None, None
    yield "fine-tune", 16, None, None
    for method, options in methods.items():
        if args.only and method not in args.only.split(";"):
            continue
        for bits in [1.01] if method == "bitdelta" else args.bits.split(","):
            yield method, float(bits), args.work / f"{args.label}-{method}-{bits}".replace(", ", "-"), options
    for adapter in args.lora:
        yield f"LoRA {adapter.parent.name}, rate {adapter.name}", 0, adapter, None


def measure(args, method, bits, candidate, options):
    row = {"model": args.label, "method": method, "requested": bits}
    device = ["--device", args.device] if args.device else []
    if options and not candidate.exists():
        run(args.program, "compress", "--base", args.base, "--finetuned", args.tuned, "--out", candidate, "--bits", bits,
            "--calib", args.calib, "--threads", args.threads, *options, *device)
    if options:
        info = json.loads(run(args.program, "inspect", candidate, "--json"))
        row |= {"bits": info["bits_per_weight"], "all_in_bytes": info["all_in_bytes"]}
    elif candidate:
        row["all_in_bytes"] = sum((candidate / f"adapter_{f}").stat().st_size for f in ("model.safetensors", "config.json"))
    what = ["--model", args.tuned] if method == "fine-tune" else ["--delta", candidate] if candidate else []
    return row | json.loads(run(args.program, "eval", "--base", args.base, *what, "--reference", args.tuned, "--data", args.data, "--limit",
                                args.limit, "--max-tokens", args.max_tokens, "--threads", args.threads, "--json", *device))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("tuned", type=pathlib.Path)
    parser.add_argument("--label", required=True, help="of the fine-tune, in rows and names of archives")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--bits", required=True)
    parser.add_argument("--lora", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--limit", default="0")
    parser.add_argument("--max-tokens", default="160")
    parser.add_argument("--only", help="methods, with ; between them")
    parser.add_argument("--device", help="cuda: compresses and scores there")
    parser.add_argument("--distill", help="minutes, for auto, balanced and bitdelta; default: the profile's on a CPU")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--program", default=PROGRAM)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/pairs")
    parser.add_argument("--rows", required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool, open(args.rows, "a") as file:
        for done in [pool.submit(measure, args, *case) for case in cases_of(args)]:
            print(json.dumps(done.result()), file=file, flush=True)


if __name__ == "__main__":
    main()
