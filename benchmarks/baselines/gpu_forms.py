#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The delta path of a layer of Llama-2-7B on a GPU as others compute it: beside benchmarks/kernels/delta_bench, on the same device.

    benchmarks/baselines/gpu_forms.py [--variants 1 4 16] [--repeats 50] [--json FILE]

- PyTorch: 2-bit codes with a scale per 128 are unpacked to fp16, then two matmuls; one variant after another.
- Triton, 1 bit: y[b] += scale * (signs[b] x[b]), masks of all variants stacked, 32 rows of the input in a word, as the publication of
  BitDelta describes its kernel; one launch a projection, written for this comparison.

Each is a CUDA graph over layers of several times the L2 cache; the median in microseconds a layer. Needs torch with CUDA, and triton.
"""
import argparse
import json
import statistics

import torch
import triton
import triton.language as tl

SHAPES = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]  # (outputs, inputs)
GROUP = 128


class Unpacked:
    """Factors of one bit a weight: nearly all components of 2 bits."""

    def __init__(self, n_out, n_in):
        rank = round(n_out * n_in / ((2 + 16 / GROUP) * (n_out + n_in)) / GROUP) * GROUP
        self.v, self.u = self.codes(rank, n_in), self.codes(n_out, rank)
        self.s = torch.ones(rank, dtype=torch.float16, device="cuda")
        self.shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device="cuda")

    @staticmethod
    def codes(rows, cols):
        return (torch.randint(0, 256, (rows, cols // 4), dtype=torch.uint8, device="cuda"),
                torch.full((rows, cols // GROUP), 1e-3, dtype=torch.float16, device="cuda"))

    def unpack(self, codes, scales):
        fields = (codes.unsqueeze(-1) >> self.shifts) & 3
        groups = fields.reshape(codes.shape[0], -1, GROUP).to(torch.float16) - 1.5
        return (groups * scales.unsqueeze(-1)).reshape(codes.shape[0], -1)

    def add(self, x, y):
        y += ((x @ self.unpack(*self.v).T) * self.s) @ self.unpack(*self.u).T


@triton.jit
def one_bit_kernel(x, mask, scale, y, n_out, n_in, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """A program has BLOCK_N outputs of one variant: x [b, n_in], mask [b, n_in / 32, n_out], y [b, n_out]."""
    variant = tl.program_id(1)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = tl.arange(0, BLOCK_K)
    total = tl.zeros((16, BLOCK_N), dtype=tl.float32)
    for first in range(0, n_in, BLOCK_K):
        k = first + inputs
        words = tl.load(mask + (variant * (n_in // 32) + k // 32)[:, None] * n_out + outputs[None, :], mask=outputs[None, :] < n_out, other=0)
        signs = (2 * ((words >> (k % 32)[:, None]) & 1) - 1).to(tl.float16)
        row = tl.load(x + variant * n_in + k)
        rows = tl.where(tl.arange(0, 16)[:, None] == 0, row[None, :], 0.0).to(tl.float16)
        total = tl.dot(rows, signs, total)
    sums = tl.sum(total, axis=0) * tl.load(scale + variant)
    at = y + variant * n_out + outputs
    tl.store(at, tl.load(at, mask=outputs < n_out, other=0.0) + sums.to(tl.float16), mask=outputs < n_out)


class OneBit:
    def __init__(self, n_out, n_in, variants):
        self.shape = (n_out, n_in)
        self.mask = torch.randint(-2**31, 2**31 - 1, (variants, n_in // 32, n_out), dtype=torch.int32, device="cuda")
        self.scale = torch.full((variants,), 1e-3, dtype=torch.float32, device="cuda")

    def add(self, x, y):
        n_out, n_in = self.shape
        one_bit_kernel[(triton.cdiv(n_out, 64), x.shape[0])](x, self.mask, self.scale, y, n_out, n_in, BLOCK_N=64, BLOCK_K=32)


def check_one_bit():
    delta, x, y = OneBit(192, 256, 3), torch.randn(3, 256, device="cuda", dtype=torch.float16), torch.zeros(3, 192, device="cuda", dtype=torch.float16)
    delta.add(x, y)
    bits = (delta.mask.unsqueeze(2) >> torch.arange(32, device="cuda")[:, None]) & 1  # [b, n_in / 32, 32, n_out]
    signs = (2 * bits - 1).reshape(3, 256, 192).double()
    want = torch.einsum("bi,bio->bo", x.double(), signs) * 1e-3
    error = ((y.double() - want).norm() / want.norm()).item()
    assert error < 2e-3, f"the 1-bit kernel is off by {error:.2e}"


def timed(layers, run, repeats):
    """Microseconds a layer: median, 10th and 90th percentile."""
    for layer in range(layers):
        run(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            run(layer)
    times = []
    for turn in range(-3, repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if turn >= 0:
            times.append(1e3 * begin.elapsed_time(end) / layers)
    times.sort()
    return {"us": statistics.median(times), "p10": times[len(times) // 10], "p90": times[len(times) * 9 // 10]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(1)
    check_one_bit()
    rows = []
    for n in args.variants:
        layers = max(1, (8 + n - 1) // n)  # 25 MB a layer and variant
        x = {n_in: torch.randn(n, n_in, device="cuda", dtype=torch.float16) for _, n_in in SHAPES}
        y = {n_out: torch.zeros(n, n_out, device="cuda", dtype=torch.float16) for n_out, _ in SHAPES}
        if n <= 4:
            deltas = [[[Unpacked(*shape) for shape in SHAPES] for _ in range(n)] for _ in range(layers)]

            def unpacked(layer):
                for v in range(n):
                    for delta, (n_out, n_in) in zip(deltas[layer][v], SHAPES):
                        delta.add(x[n_in][v:v + 1], y[n_out][v:v + 1])

            rows.append({"what": "PyTorch, unpack and two matmuls", "variants": n, **timed(layers, unpacked, args.repeats)})
        masks = [[OneBit(*shape, n) for shape in SHAPES] for _ in range(layers)]

        def one_bit(layer):
            for delta, (n_out, n_in) in zip(masks[layer], SHAPES):
                delta.add(x[n_in], y[n_out])

        rows.append({"what": "Triton, 1 bit", "variants": n, **timed(layers, one_bit, args.repeats)})
        deltas = masks = None
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "rows": rows}, file, indent=1)
    for row in rows:
        print(f'{row["what"]:34} {row["variants"]:4} variants {row["us"]:10.1f} us a layer ({row["p10"]:.1f} to {row["p90"]:.1f})')
    print(torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
