#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The delta path of a layer of Llama-2-7B on a GPU as others compute it: beside benchmarks/kernels/delta_bench, on the same device.

    benchmarks/baselines/gpu_forms.py [--variants 1 4 16] [--rows 1] [--hidden 4096] [--only FORM...] [--repeats 20] [--json FILE]

- base: the layer's projections in fp16, alone.
- models: a whole fp16 matrix of each variant, batched (bmm).
- factors: fp16 low-rank factors of the ranks of one bit a weight, batched (two bmm).
- unpacked: 2-bit codes with a scale per 128 are unpacked to fp16, then two matmuls; one variant after another. PyTorch, as the
  authors published it.
- one-bit: Triton, y[b] += scale * (signs[b] x[b]), masks of all variants stacked, 32 rows of the input in a word, as the publication
  of BitDelta describes its kernel; one launch a projection, tile sizes tuned, written for this comparison.

--rows: tokens of each variant; --hidden: of the layer, whose MLP is 11008 / 4096 times as wide. Each is a CUDA graph over layers of
several times the L2 cache; the median in microseconds a layer. Needs torch with CUDA, and triton.
"""
import argparse
import json
import statistics

import torch
import triton
import triton.language as tl

GROUP = 128
LEAST_BYTES = 200 << 20  # of the weights that a graph reads: several times the L2 cache
MOST_BYTES = 40 << 30


def shapes_of(hidden):
    """(outputs, inputs) of a layer's projections."""
    inner = hidden * 11008 // 4096
    return [(hidden, hidden)] * 4 + [(inner, hidden)] * 2 + [(hidden, inner)]


def rank_of(n_out, n_in):
    """Of factors of one bit a weight: nearly all components of 2 bits."""
    return max(1, round(n_out * n_in / ((2 + 16 / GROUP) * (n_out + n_in)) / GROUP)) * GROUP


def half(*shape):
    return torch.empty(shape, dtype=torch.float16, device="cuda").normal_(std=0.02)


class Base:
    def __init__(self, n_out, n_in, variants):
        self.weight = half(n_out, n_in)

    @staticmethod
    def bytes(n_out, n_in, variants):
        return 2 * n_out * n_in

    def add(self, x, y):
        y += (x.flatten(0, 1) @ self.weight.T).view_as(y)


class Models:
    def __init__(self, n_out, n_in, variants):
        self.weight = half(variants, n_out, n_in)

    @staticmethod
    def bytes(n_out, n_in, variants):
        return 2 * variants * n_out * n_in

    def add(self, x, y):
        y += torch.bmm(x, self.weight.transpose(1, 2))


class Factors:
    def __init__(self, n_out, n_in, variants):
        rank = rank_of(n_out, n_in)
        self.v, self.u = half(variants, rank, n_in), half(variants, n_out, rank)

    @staticmethod
    def bytes(n_out, n_in, variants):
        return 2 * variants * rank_of(n_out, n_in) * (n_out + n_in)

    def add(self, x, y):
        y += torch.bmm(torch.bmm(x, self.v.transpose(1, 2)), self.u.transpose(1, 2))


class Unpacked:
    def __init__(self, n_out, n_in, variants):
        rank = rank_of(n_out, n_in)
        self.factors = [(self.codes(rank, n_in), self.codes(n_out, rank)) for _ in range(variants)]
        self.s = torch.ones(rank, dtype=torch.float16, device="cuda")
        self.shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device="cuda")

    @staticmethod
    def bytes(n_out, n_in, variants):
        return variants * rank_of(n_out, n_in) * (n_out + n_in) * (2 + 16 / GROUP) / 8

    @staticmethod
    def codes(rows, cols):
        return (torch.randint(0, 256, (rows, cols // 4), dtype=torch.uint8, device="cuda"),
                torch.full((rows, cols // GROUP), 1e-3, dtype=torch.float16, device="cuda"))

    def unpack(self, codes, scales):
        fields = (codes.unsqueeze(-1) >> self.shifts) & 3
        groups = fields.reshape(codes.shape[0], -1, GROUP).to(torch.float16) - 1.5
        return (groups * scales.unsqueeze(-1)).reshape(codes.shape[0], -1)

    def add(self, x, y):
        for row, out, (v, u) in zip(x, y, self.factors):
            out += ((row @ self.unpack(*v).T) * self.s) @ self.unpack(*u).T


TILES = [triton.Config({"BLOCK_N": n, "BLOCK_K": k}, num_warps=w, num_stages=s)
         for n, k, w, s in ((32, 64, 2, 4), (32, 128, 4, 4), (64, 32, 4, 4), (64, 64, 4, 4), (64, 128, 4, 3), (128, 64, 8, 3))]


@triton.autotune(TILES, key=["n_out", "n_in", "n_variants"], restore_value=["y"])
@triton.jit
def one_bit_kernel(x, mask, scale, y, n_rows, n_out, n_in, n_variants, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """A program has BLOCK_N outputs of one variant: x [b, rows <= 16, n_in], mask [b, n_in / 32, n_out], y [b, rows, n_out]."""
    variant = tl.program_id(1)
    rows = tl.arange(0, 16)[:, None]
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = tl.arange(0, BLOCK_K)
    total = tl.zeros((16, BLOCK_N), dtype=tl.float32)
    for first in range(0, n_in, BLOCK_K):
        k = first + inputs
        words = tl.load(mask + (variant * (n_in // 32) + k // 32)[:, None] * n_out + outputs[None, :], mask=outputs[None, :] < n_out, other=0)
        signs = (2 * ((words >> (k % 32)[:, None]) & 1) - 1).to(tl.float16)
        tile = tl.load(x + (variant * n_rows + rows) * n_in + k[None, :], mask=rows < n_rows, other=0.0)
        total = tl.dot(tile, signs, total)
    at = y + (variant * n_rows + rows) * n_out + outputs[None, :]
    here = (rows < n_rows) & (outputs[None, :] < n_out)
    tl.store(at, tl.load(at, mask=here, other=0.0) + (total * tl.load(scale + variant)).to(tl.float16), mask=here)


class OneBit:
    def __init__(self, n_out, n_in, variants):
        self.shape = (n_out, n_in)
        self.mask = torch.randint(-2**31, 2**31 - 1, (variants, n_in // 32, n_out), dtype=torch.int32, device="cuda")
        self.scale = torch.full((variants,), 1e-3, dtype=torch.float32, device="cuda")

    @staticmethod
    def bytes(n_out, n_in, variants):
        return variants * n_out * n_in / 8

    def add(self, x, y):
        n_out, n_in = self.shape
        variants, rows, _ = x.shape
        grid = lambda tile: (triton.cdiv(n_out, tile["BLOCK_N"]), variants)
        one_bit_kernel[grid](x, self.mask, self.scale, y, rows, n_out, n_in, variants)


FORMS = {"base": Base, "models": Models, "factors": Factors, "unpacked": Unpacked, "one-bit": OneBit}


def check_one_bit():
    for rows in (1, 5):
        delta, x = OneBit(192, 256, 3), torch.randn(3, rows, 256, device="cuda", dtype=torch.float16)
        y = torch.zeros(3, rows, 192, device="cuda", dtype=torch.float16)
        delta.add(x, y)
        bits = (delta.mask.unsqueeze(2) >> torch.arange(32, device="cuda")[:, None]) & 1  # [b, n_in / 32, 32, n_out]
        signs = (2 * bits - 1).reshape(3, 256, 192).double()
        want = torch.einsum("bri,bio->bro", x.double(), signs) * 1e-3
        error = ((y.double() - want).norm() / want.norm()).item()
        assert error < 2e-3, f"the 1-bit kernel is off by {error:.2e}"


def check_unpacked():
    """Code c of a field stands for (c - 1.5) times the scale of its group."""
    delta = Unpacked(256, 256, 1)
    codes, scales = delta.factors[0][0]
    want = [[((int(byte) >> shift & 3) - 1.5) * float(scales[0, 0]) for byte in codes[0, :4] for shift in (0, 2, 4, 6)]]
    torch.testing.assert_close(delta.unpack(codes, scales)[:1, :16].float().cpu(), torch.tensor(want), rtol=2e-3, atol=1e-6)


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


def measure(form, hidden, variants, rows, repeats):
    shapes = shapes_of(hidden)
    layer_bytes = sum(FORMS[form].bytes(*shape, variants) for shape in shapes)
    layers = max(1, int(LEAST_BYTES // layer_bytes) + 1 if layer_bytes < LEAST_BYTES else 1)
    if layers * layer_bytes > MOST_BYTES:
        return None
    x = {n_in: torch.randn(variants, rows, n_in, device="cuda", dtype=torch.float16) for _, n_in in shapes}
    y = {n_out: torch.zeros(variants, rows, n_out, device="cuda", dtype=torch.float16) for n_out, _ in shapes}
    deltas = [[FORMS[form](*shape, variants) for shape in shapes] for _ in range(layers)]

    def run(layer):
        for delta, (n_out, n_in) in zip(deltas[layer], shapes):
            delta.add(x[n_in], y[n_out])

    return {"form": form, "hidden": hidden, "variants": variants, "rows": rows, **timed(layers, run, repeats), "bytes": layer_bytes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--rows", type=int, nargs="*", default=[1], help="at most 16")
    parser.add_argument("--hidden", type=int, nargs="*", default=[4096])
    parser.add_argument("--only", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(1)
    check_one_bit()
    check_unpacked()
    rows = []
    for form in args.only:
        for hidden in args.hidden:
            for variants in args.variants:
                for n in args.rows:
                    row = measure(form, hidden, variants, n, args.repeats)
                    torch.cuda.empty_cache()
                    if row is None:
                        continue
                    rows.append(row)
                    print(f'{form:10} hidden {hidden:5} {variants:4} variants of {n:3} rows {row["us"]:10.1f} us a layer '
                          f'({row["p10"]:.1f} to {row["p90"]:.1f}) {row["bytes"] / 1e6:9.1f} MB', flush=True)
    print(torch.cuda.get_device_name())
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
