#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a base in low precision costs a delta (docs/quality.md, "Quantized backbones").

    tools/backbones.py TESTBED --rows rows.jsonl [--model small-math] [--bits 1.195] [--limit 250]
                       [--only LABELS] [--options "--profile fast"] [--work DIR] [--threads N]
    tools/backbones.py --table --rows rows.jsonl

For each backbone two archives of one fine-tune, at equal bits and from the same calibration text, run over it: the
one made on the bf16 base, and the one made for the backbone, on its dequantized values. Scores are against the
fine-tune in bf16. Bases and archives stay in the work directory, rows are added to the file: what is there already
is not measured again. tools/quantize.py, which makes the bases, needs torch (and transformers for GPTQ).
"""
import argparse
import json
import pathlib
import shlex
import sys

from quality import PROGRAM, ROOT, run

# Label -> options of tools/quantize.py; None: the bf16 base itself, with options of eval.
LAYOUTS = {"bf16": None, "--base-dtype int8": None, "--base-dtype int4": None,
           "GPTQ, 4 bits": ["--layout", "gptq", "--method", "gptq"],
           "AWQ layout, 4 bits": ["--layout", "awq"],
           "compressed-tensors, 4 bits": ["--layout", "pack"],
           "compressed-tensors, int8": ["--layout", "int8"],
           "compressed-tensors, fp8": ["--layout", "fp8"],
           "bitsandbytes nf4": ["--layout", "nf4", "--double"]}


class Bench:
    def __init__(self, args):
        self.args = args
        self.bed, self.work = pathlib.Path(args.testbed), pathlib.Path(args.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.full = self.bed / f"models/{args.model.split('-')[0]}-base"
        self.finetuned = self.bed / f"models/{args.model}"
        self.task = args.model.split("-")[1]

    def quantized(self, label, options):
        """The base of that label, related to the full one."""
        out = self.work / ("base-" + "".join(c if c.isalnum() else "-" for c in label))
        if not out.exists():
            calib = ["--calib", self.bed / "calib/generic.jsonl"] if "--method" in options else []
            run(sys.executable, ROOT / "tools/quantize.py", self.full, out, *options, *calib)
        if not (out / "deltacome_base.json").exists():
            run(self.args.deltacome, "relate", out, "--quantized-from", self.full)
        return out

    def archive(self, base):
        out = self.work / f"{self.args.model}-{self.args.bits}-on-{base.name}"
        if not out.exists():
            run(self.args.deltacome, "compress", "--base", base, "--finetuned", self.finetuned, "--out", out, "--bits", self.args.bits,
                "--calib", self.bed / f"calib/{self.task}.jsonl", "--threads", self.args.threads,
                *shlex.split(self.args.options))
        return out

    def score(self, base, *candidate):
        return json.loads(run(self.args.deltacome, "eval", "--base", base, *candidate, "--reference", self.finetuned, "--data",
                              self.bed / f"eval/{self.task}.jsonl", "--limit", self.args.limit, "--threads",
                              self.args.threads, "--json"))

    def rows(self, label):
        """(which delta, its row) of a backbone, measured one after another."""
        options = LAYOUTS[label]
        if options is None:
            dtype = label.split() if label.startswith("--") else []
            yield "of bf16", lambda: self.score(self.full, "--delta", self.archive(self.full), *dtype)
            return
        base = self.quantized(label, options)
        yield "of bf16", lambda: self.score(base, "--delta", self.archive(self.full))
        yield "of it", lambda: self.score(base, "--delta", self.archive(base))

    def measure(self):
        path = pathlib.Path(self.args.rows)
        done = [json.loads(line) for line in open(path)] if path.exists() else []
        done = {(row["backbone"], row["delta"]) for row in done}
        for label in self.args.only.split(";") if self.args.only else LAYOUTS:
            for delta, measure in self.rows(label):
                if (label, delta) in done:
                    continue
                row = {"backbone": label, "delta": delta, **measure()}
                with open(path, "a") as file:
                    print(json.dumps(row), file=file)


def table(path):
    rows = {}
    for line in open(path):
        row = json.loads(line)
        rows.setdefault(row["backbone"], {})[row["delta"]] = row

    def cells(row):
        if row is None:
            return "| | | "
        return f"| {row['kl']:.4f} | {row['top1']:.4f} | {row['exact_match']:.3f} "

    print("| backbone | delta of bf16: KL | top-1 | EM | delta of the backbone: KL | top-1 | EM |\n|" + " --- |" * 7)
    for label, by_delta in rows.items():
        print(f"| {label} {cells(by_delta.get('of bf16'))}{cells(by_delta.get('of it'))}|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed", nargs="?")
    parser.add_argument("--model", default="small-math")
    parser.add_argument("--bits", default="1.195")
    parser.add_argument("--limit", default="250")
    parser.add_argument("--options", default="--profile fast", help="of compress, for all archives")
    parser.add_argument("--only", help="labels, with ; between them")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--work", default=ROOT / "build/backbones")
    parser.add_argument("--deltacome", default=PROGRAM)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        table(args.rows)
    elif args.testbed:
        Bench(args).measure()
    else:
        parser.error("give the test bed's directory, or --table")


if __name__ == "__main__":
    main()
