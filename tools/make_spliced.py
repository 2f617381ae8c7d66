#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A fine-tune spliced from two of one base: attention of the first, everything else of the second.

    tools/make_spliced.py small-math small-chat OUT

Its attention deltas have low rank and its MLP deltas do not, so no single family of codes suits it.
"""
import argparse
import json
import pathlib
import shutil


def tensors_of(directory):
    """(name, dtype, shape, bytes) of every tensor; bytes as they are, for any dtype."""
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        body = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:body]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                yield name, entry["dtype"], entry["shape"], data[body + first:body + last]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attention", "rest", "out"):
        parser.add_argument(name, type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir()
    for file in args.rest.iterdir():
        if file.is_file() and ".safetensors" not in file.name:
            shutil.copyfile(file, args.out / file.name)
    header, blobs, end = {}, [], 0
    for directory, of_attention in ((args.attention, True), (args.rest, False)):
        for name, dtype, shape, data in tensors_of(directory):
            if ("self_attn" in name) == of_attention:
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
                blobs.append(data)
                end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (args.out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


if __name__ == "__main__":
    main()
