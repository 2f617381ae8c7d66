#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a deltacome archive with numpy alone, from docs/format.md: a second implementation, so that
the format is what the document says and not what the program happens to do.

Usage: read_archive.py ARCHIVE                                  list the tensors
       read_archive.py ARCHIVE --base B --merged M              compare: merged = base + decoded delta
       read_archive.py ARCHIVE --tensor NAME --out FILE.npy     write one decoded delta

The comparison allows each element half a unit in the last place of the merged type, and exits with
1 if one is further off.
"""

import argparse
import hashlib
import json
import pathlib
import re
import struct
import sys

import numpy as np

NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I32": "<i4", "I64": "<i8"}
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Half a unit in the last place, relative to the value.
HALF_ULP = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
SMALLEST = {"F64": 0.0, "F32": 2.0**-150, "F16": 2.0**-25, "BF16": 2.0**-134}  # half a subnormal step
ALIGNMENT = 16
MAX_TIERS = 8
BOOK_SOURCES = {"gauss-1": pathlib.Path(__file__).resolve().parents[1] / "src/quant/code_books.inc"}
BOOK_ENTRIES, BOOK_STEP = 256, 1 / 32
# The program works in float32 where it applies gains and rotations.
FLOAT_SLACK = 2.0**-20


def to_double(raw, dtype):
    """Bytes of a floating type as float64."""
    values = np.frombuffer(raw, NUMPY_TYPES[dtype])
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def read_safetensors(path):
    """Name -> (dtype, shape, bytes)."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size:]
    return {name: (t["dtype"], t["shape"], body[t["data_offsets"][0]:t["data_offsets"][1]])
            for name, t in header.items()}


def read_checkpoint(directory):
    """The same for model.safetensors or the shards of its index."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(directory / "model.safetensors")
    tensors = {}
    for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        tensors.update(read_safetensors(directory / shard))
    return tensors


def code_book(name, dim):
    """Entries [256, dim] of a global code book."""
    if name not in BOOK_SOURCES:
        raise ValueError(f"unknown code book {name}")
    found = re.search(rf"kBook{dim}\[256 \* {dim}\] = {{(.*?)}};", BOOK_SOURCES[name].read_text(), re.DOTALL)
    if not found:
        raise ValueError(f"no code book of dimension {dim}")
    return np.array(re.findall(r"-?\d+", found[1]), np.float64).reshape(BOOK_ENTRIES, dim) * BOOK_STEP


def rotation_signs(seed, n):
    """+1 or -1 [n]: bit 0 of the outputs of splitmix64, started at seed + n, is 0 or 1."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = np.uint64((seed + n) % 2**64) + steps
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        z ^= z >> np.uint64(31)
    return 1.0 - 2.0 * (z & np.uint64(1)).astype(np.float64)


def unrotate(rows, rotation):
    """rows [n, n_in] times R^T: Hadamard blocks, then signs."""
    block, n_in = rotation["block"], rows.shape[1]
    hadamard = np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    out = rows.reshape(-1, block) @ hadamard / np.sqrt(block)
    return out.reshape(-1, n_in) * rotation_signs(rotation["seed"], n_in)


class Blob:
    """Hands out the parts of a tensor's bytes: one after another, each begins at a multiple of 16."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n_bytes):
        part = self.data[self.at:self.at + n_bytes]
        if len(part) != n_bytes:
            raise ValueError(f"{len(self.data)} bytes, expected at least {self.at + n_bytes}")
        self.at = -(-(self.at + n_bytes) // ALIGNMENT) * ALIGNMENT
        return part

    def plane(self, width, rows, cols):
        """Bit plane [rows, cols], least significant bits first, each row padded to a byte."""
        row_bytes = -(-cols * width // 8)
        packed = np.frombuffer(self.data, np.uint8, rows * row_bytes, self.at).reshape(rows, row_bytes)
        self.at += rows * row_bytes
        fields = [(packed >> shift) & ((1 << width) - 1) for shift in range(0, 8, width)]
        return np.stack(fields, axis=2).reshape(rows, -1)[:, :cols]

    def array(self, fmt, rows, cols):
        """Values [rows, cols]: scale * (code - (2^bits - 1) / 2), or fp16 themselves."""
        if fmt["code"] == "f16":
            return to_double(self.take(2 * rows * cols), "F16").reshape(rows, cols)
        if fmt["code"] != "midrise":
            raise ValueError(f"unknown code {fmt['code']}")
        bits = fmt["bits"]
        if bits == 3:
            codes = self.plane(2, rows, cols) + 4 * self.plane(1, rows, cols)
        else:
            codes = self.plane(bits, rows, cols)
        self.take(0)
        per_row, per_col = (extent if block == 0 else block
                            for block, extent in zip(fmt["block"], (rows, cols)))
        shape = (-(-rows // per_row), -(-cols // per_col))
        scales = to_double(self.take(2 * shape[0] * shape[1]), "F16").reshape(shape)
        scales = scales.repeat(per_row, 0)[:rows].repeat(per_col, 1)[:, :cols]
        return scales * (codes.astype(np.float64) - (2**bits - 1) / 2)

    def vectors(self, book, rows, cols):
        """Values [rows, cols] of a vector code, still rotated: scale of the row * its entries."""
        scales = to_double(self.take(2 * rows), "F16")
        per_row = -(-cols // book["dim"])
        codes = np.frombuffer(self.take(rows * per_row), np.uint8)
        entries = code_book(book["id"], book["dim"])[codes]
        return scales[:, None] * entries.reshape(rows, -1)[:, :cols]

    def gains(self, n):
        return 2.0**((np.frombuffer(self.take(n), np.uint8).astype(np.float64) - 128) / 64)


def decode(entry, data):
    """(delta [base_rows, n_in] or None, whole values or added rows or None), float64."""
    blob = Blob(data)
    shape = entry["shape"]
    if entry["codec"] == "raw":
        size = int(np.prod(shape)) * ELEMENT_BYTES[entry["dtype"]]
        return None, to_double(blob.take(size), entry["dtype"]).reshape(shape)
    n_out, n_in = shape
    rows = entry.get("base_rows", n_out)
    if entry["codec"] == "dense":
        delta = blob.array(entry["array"], rows, n_in)
    elif entry["codec"] == "lowrank":
        if len(entry["tiers"]) > MAX_TIERS:
            raise ValueError(f"{len(entry['tiers'])} tiers, expected at most {MAX_TIERS}")
        s = to_double(blob.take(2 * sum(t["rank"] for t in entry["tiers"])), "BF16")
        delta = np.zeros((rows, n_in))
        first = 0
        for tier in entry["tiers"]:
            v = blob.array(tier["v"], tier["rank"], n_in)
            ut = blob.array(tier["u"], tier["rank"], rows)
            delta += (ut.T * s[first:first + tier["rank"]]) @ v
            first += tier["rank"]
    elif entry["codec"] == "vector":
        delta = unrotate(blob.vectors(entry["book"], rows, n_in), entry["rotation"])
    else:
        raise ValueError(f"unknown codec {entry['codec']}")
    gains = entry.get("gains", [])
    if set(gains) - {"row", "column"}:
        raise ValueError(f"unknown gains {gains}")
    if "row" in gains:
        delta *= blob.gains(rows)[:, None]
    if "column" in gains:
        delta *= blob.gains(n_in)
    added = None
    if n_out > rows:
        size = (n_out - rows) * n_in * ELEMENT_BYTES[entry["dtype"]]
        added = to_double(blob.take(size), entry["dtype"]).reshape(n_out - rows, n_in)
    if blob.at != len(data):
        raise ValueError(f"{len(data)} bytes, expected {blob.at}")
    return delta, added


class Archive:
    def __init__(self, directory):
        self.config = json.loads((directory / "delta_config.json").read_text())
        if self.config["format"] != "deltacome" or self.config["format_version"] != 1:
            raise ValueError(f"{directory}: not an archive of format version 1")
        stored = read_safetensors(directory / "delta.safetensors")
        self.entries = {entry["name"]: entry for entry in self.config["tensors"]}
        if set(stored) != set(self.entries):
            raise ValueError("delta.safetensors and delta_config.json name different tensors")
        self.blobs = {}
        for name, (dtype, _, data) in stored.items():
            if dtype != "U8" or hashlib.sha256(data).hexdigest() != self.entries[name]["sha256"]:
                raise ValueError(f"{name}: bytes do not match their hash")
            self.blobs[name] = data

    def decode(self, name):
        return decode(self.entries[name], self.blobs[name])

    def merged(self, name, base):
        """Base + delta in float64; base None = the tensor is new."""
        if name not in self.entries:
            return base
        delta, values = self.decode(name)
        if delta is None:
            return values
        total = base[:delta.shape[0]] + delta
        return total if values is None else np.concatenate([total, values])


def compare(archive, base_dir, merged_dir):
    """The largest |merged - (base + delta)| over what rounding allows, and where."""
    base, merged = read_checkpoint(base_dir), read_checkpoint(merged_dir)
    worst, where = 0.0, "nothing"
    for name, (dtype, shape, data) in merged.items():
        b = to_double(base[name][2], base[name][0]).reshape(base[name][1]) if name in base else None
        want = archive.merged(name, b)
        if list(want.shape) != list(shape):
            raise ValueError(f"{name}: merged {shape}, expected {list(want.shape)}")
        got = to_double(data, dtype).reshape(shape)
        # The merge may add in float32: its rounding comes on top of that to the stored type.
        allowed = (HALF_ULP[dtype] + 2.0**-20) * np.abs(want) + SMALLEST[dtype] + 2.0**-30 * np.abs(want).max()
        entry = archive.entries.get(name, {})
        if entry.get("codec") == "vector" or "gains" in entry:
            allowed += FLOAT_SLACK * np.abs(archive.decode(name)[0]).max()
        excess = np.abs(got - want) / np.maximum(allowed, 1e-300)
        if excess.size and excess.max() > worst:
            worst = float(excess.max())
            where = f"{name}{[int(i) for i in np.unravel_index(excess.argmax(), excess.shape)]}"
    missing = set(base) - set(merged)
    if missing:
        raise ValueError(f"merged checkpoint lacks {sorted(missing)[0]}")
    return worst, where


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=pathlib.Path)
    parser.add_argument("--base", type=pathlib.Path)
    parser.add_argument("--merged", type=pathlib.Path)
    parser.add_argument("--tensor")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    archive = Archive(args.archive)
    if args.merged:
        if not args.base:
            parser.error("--merged needs --base")
        worst, where = compare(archive, args.base, args.merged)
        print(f"largest deviation: {worst:.4f} of what rounding allows, at {where}")
        return 0 if worst <= 1 else 1
    if args.tensor:
        delta, values = archive.decode(args.tensor)
        np.save(args.out or f"{args.tensor}.npy", values if delta is None else delta)
        return 0
    calibration = archive.config["calibration"]
    source = ", ".join(calibration["files"]) or "nothing"
    print(f"{archive.config['method']}\tcalibrated on {calibration['tokens']} tokens of {source}")
    for name, entry in archive.entries.items():
        print(f"{name}\t{entry['codec']}\t{entry['shape']}\t{len(archive.blobs[name])} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
