#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The delta of a layer as PyTorch computes it (unpack the codes, two matmuls) beside deltacome, on the same CPU.

    benchmarks/baselines/pytorch_form.py [--shape 7b|1b] [--bits 1] [--threads 2] [--repeats 10] [--program P]

Both have the same codes a weight: nearly all components of 2 bits with a scale per 128, one token. PyTorch unpacks four codes
of a byte, multiplies them with their scales and then the input, in float32 and in bfloat16; the median of --repeats rounds.
deltacome's time is that of a decode step with one variant less that of the base alone (`deltacome bench decode`), fastest of
its rounds. Needs torch.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch

PROGRAM = pathlib.Path(__file__).resolve().parent.parent.parent / "build/release/bin/deltacome"
# (outputs, inputs) of a layer's projections
SHAPES = {"1b": [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192)],
          "7b": [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]}
GROUP = 128
SHIFTS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)


def packed(rows, cols, dtype):
    """Codes [rows, cols / 4] and scales [rows, cols / 128] of random 2-bit codes."""
    return (torch.randint(0, 256, (rows, cols // 4), dtype=torch.uint8), torch.full((rows, cols // GROUP), 1e-3, dtype=dtype))


def unpacked(codes, scales):
    fields = (codes.unsqueeze(-1) >> SHIFTS) & 3
    groups = fields.reshape(codes.shape[0], -1, GROUP).to(scales.dtype) - 1.5
    return (groups * scales.unsqueeze(-1)).reshape(codes.shape[0], -1)


class Delta:
    def __init__(self, n_out, n_in, bits, dtype):
        rank = round(bits * n_out * n_in / ((2 + 16 / GROUP) * (n_out + n_in)) / GROUP) * GROUP
        self.v, self.u = packed(rank, n_in, dtype), packed(n_out, rank, dtype)
        self.s = torch.ones(rank, dtype=dtype)

    def __call__(self, x):
        return ((x @ unpacked(*self.v).T) * self.s) @ unpacked(*self.u).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--bits", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--program", default=PROGRAM)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours = json.loads(subprocess.run([args.program, "bench", "decode", "--shape", args.shape, "--layers", "1", "--bits", str(args.bits),
                                      "--threads", str(args.threads), "--repeats", str(args.repeats), "--json"],
                                     check=True, capture_output=True, text=True).stdout)
    ms = {entry["name"]: entry["ms"] for entry in ours["entries"]}
    delta = ms["1 variant, 1 sequence"] - ms["base, 1 sequence"]
    print(f"deltacome                  {delta:8.2f} ms  ({ours['delta_bytes'] / 1e6:.1f} MB of codes)")
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            deltas = [Delta(n_out, n_in, args.bits, dtype) for n_out, n_in in SHAPES[args.shape]]
            inputs = [torch.randn(1, n_in).to(dtype) for _, n_in in SHAPES[args.shape]]
            times = []
            for _ in range(args.repeats + 1):
                start = time.perf_counter()
                for d, x in zip(deltas, inputs):
                    d(x)
                times.append(1e3 * (time.perf_counter() - start))
            median = statistics.median(times[1:])
            print(f"torch {torch.__version__}, {str(dtype)[6:]:9} {median:8.2f} ms  {median / delta:.1f} times deltacome's")


if __name__ == "__main__":
    main()
