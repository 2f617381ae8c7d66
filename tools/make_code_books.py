#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/quant/code_books.inc: the code books of the vector codec.

A book of dimension d has 256 entries of d weights that are least in mean squared error for
independent standard Gaussians (Lloyd's algorithm), as int8 with a step of 1/32. Books are global
and never change: an archive names the book, so another one gets another id.

    python3 tools/make_code_books.py > src/quant/code_books.inc     (numpy; seed 0; some minutes)
"""
import sys

import numpy as np

DIMENSIONS = (4, 6, 8, 12, 16)
ENTRIES, SAMPLES, ROUNDS, STEP = 256, 400_000, 60, 32


def nearest(x, book):
    out = np.empty(len(x), np.int64)
    half = 0.5 * (book * book).sum(1)
    for first in range(0, len(x), 20_000):
        out[first:first + 20_000] = (x[first:first + 20_000] @ book.T - half).argmax(1)
    return out


def make_book(dimension):
    random = np.random.default_rng(dimension)
    x = random.standard_normal((SAMPLES, dimension), dtype=np.float32)
    book = x[:ENTRIES].copy()
    for _ in range(ROUNDS):
        index = nearest(x, book)
        count = np.bincount(index, minlength=ENTRIES)
        for j in range(dimension):
            book[:, j] = np.bincount(index, weights=x[:, j], minlength=ENTRIES) / np.maximum(count, 1)
    codes = np.clip(np.rint(book * STEP), -127, 127).astype(int)
    test = random.standard_normal((100_000, dimension), dtype=np.float32)
    decoded = (codes / STEP).astype(np.float32)[nearest(test, (codes / STEP).astype(np.float32))]
    return codes[np.lexsort(codes.T[::-1])], float(((test - decoded) ** 2).mean())


def main():
    print("// Made by tools/make_code_books.py (seed: the dimension). 256 entries of d weights each, int8, step 1/32.")
    for dimension in DIMENSIONS:
        codes, error = make_book(dimension)
        print(f"// dimension {dimension}: mean squared error {error:.4f}")
        print(f"constexpr int8_t kBook{dimension}[256 * {dimension}] = {{")
        flat = [str(v) for v in codes.reshape(-1)]
        for first in range(0, len(flat), 24):
            print("    " + ", ".join(flat[first:first + 24]) + ",")
        print("};")
        print(dimension, error, file=sys.stderr)


if __name__ == "__main__":
    main()
