#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The highest Poisson rate that a server sustains: `deltacome bench trace` at one rate after another.

    benchmarks/highest_rate.py [--from RATE] [--steps 8] [--slo 6] [--duration 120] [--program P] -- TRACE OPTIONS...

A rate is sustained if every request is answered and 90 % of them have their first token within --slo seconds. From the
first rate on it is doubled or halved until the limit lies between two rates, then the interval is cut at its geometric
mean until its ends are less than --within apart. Prints a line a run, and the highest sustained rate last.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "build/release/bin/deltacome"


def sustained(args, rate):
    done = subprocess.run([args.program, "bench", "trace", "--rate", str(rate), "--duration", str(args.duration),
                           "--slo", str(args.slo), "--json", *args.options], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    r = json.loads(done.stdout)
    first, between = r["time_to_first_token_s"], r["time_between_tokens_s"]
    holds = r["finished"] == r["requests"] and first["p90"] < args.slo
    print(f"{rate:8.4f}/s  {'holds' if holds else 'fails'}  {r['requests']:4d} requests  first token p50 {first['p50']:7.2f} "
          f"p90 {first['p90']:7.2f} s  between tokens p50 {1e3 * between['p50']:6.1f} p99 {1e3 * between['p99']:7.1f} ms  "
          f"{r['output_tokens_per_s']:6.1f} tokens/s  {r['loads']} loads", flush=True)
    return holds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default=PROGRAM)
    parser.add_argument("--from", dest="start", type=float, default=1)
    parser.add_argument("--steps", type=int, default=8, help="runs at most")
    parser.add_argument("--within", type=float, default=1.15, help="ratio of the rates between which the limit lies")
    parser.add_argument("--slo", type=float, default=6)
    parser.add_argument("--duration", type=float, default=120)
    parser.add_argument("options", nargs="+", help="options of `deltacome bench trace`")
    args = parser.parse_args()
    low, high, rate = 0, math.inf, args.start
    for _ in range(args.steps):
        if sustained(args, rate):
            low = rate
        else:
            high = rate
        rate = 2 * low if high == math.inf else high / 2 if low == 0 else math.sqrt(low * high)
        if low > 0 and high / low < args.within:
            break
    print(f"highest sustained rate: {low:.4f}/s, next above {high:.4f}/s")


if __name__ == "__main__":
    main()
