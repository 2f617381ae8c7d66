# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: running the program, and small checkpoints made to measure."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("DELTACOME", str(ROOT / "build/release/bin/deltacome"))
DEVICE = os.environ.get("DELTACOME_DEVICE", "cpu")  # of the commands that compute
BASE = ROOT / "tests/data/models/tiny-base"
FINETUNED = ROOT / "tests/data/models/tiny-math"

PROMPT = "### Instruction:\nTom has {} apples. Tom buys {} apples. How many apples does Tom have now?\n\n### Response:\n"


def command(*arguments):
    """The program with these arguments, on DEVICE."""
    line = [PROGRAM, *map(str, arguments)]
    if DEVICE != "cpu" and line[1] in ("compress", "eval", "generate", "serve") and "--device" not in line:
        line += ["--device", DEVICE]
    return line


def run(*arguments, timeout=600, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **options)


def read_safetensors(path):
    """Name -> (dtype, shape, bytes), and the metadata."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    body = data[8 + size:]
    return {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])])
            for name, t in header.items()}, metadata


def write_safetensors(path, tensors):
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def contents(directory):
    """File name -> bytes."""
    return {p.name: p.read_bytes() for p in sorted(pathlib.Path(directory).iterdir())}


def to_float(tensor):
    return (np.frombuffer(tensor[2], np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(tensor[1])


def copy_without_weights(source, target):
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("model.safetensors"):
            shutil.copyfile(file, target / file.name)
    return target


def quantize_int8(source, target):
    """compressed-tensors, int8 per row."""
    copy_without_weights(source, target)
    config = json.loads((target / "config.json").read_text())
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized",
                                     "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    (target / "config.json").write_text(json.dumps(config))
    tensors, out = read_safetensors(source / "model.safetensors")[0], {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            out[name] = tensor
            continue
        w = to_float(tensor)
        scale = (np.abs(w).max(1, keepdims=True) / 127).astype(np.float32)
        out[name] = ("I8", tensor[1], np.round(w / scale).astype(np.int8).tobytes())
        out[name + "_scale"] = ("F32", [tensor[1][0], 1], scale.tobytes())
    write_safetensors(target / "model.safetensors", out)
    return target


class CliTest(unittest.TestCase):
    """A scratch directory, a compressed pair that all tests of a class share, and assertions on
    what the program prints."""

    @classmethod
    def setUpClass(cls):
        if not os.access(PROGRAM, os.X_OK):
            raise unittest.SkipTest(f"{PROGRAM} is not built")
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="deltacome-e2e-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.data = cls.scratch / "rows.jsonl"
        cls.calib = cls.scratch / "calib.jsonl"
        rows = [(a, b) for a in (12, 35, 240) for b in (7, 18)]
        cls.data.write_text("".join(json.dumps({
            "prompt": PROMPT.format(a, b), "response": f"{a} + {b} = {a + b}.\n#### {a + b}",
            "answer": str(a + b)}) + "\n" for a, b in rows))
        cls.calib.write_text("".join(json.dumps({
            "text": PROMPT.format(a, b) + f"{a} + {b} = {a + b}.\n#### {a + b}"}) + "\n"
            for a in range(10, 60) for b in (3, 18)))

    def ok(self, *arguments, **options):
        done = run(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done

    def json(self, *arguments, **options):
        """Standard output is exactly one JSON object."""
        done = self.ok(*arguments, "--json", **options)
        value = json.loads(done.stdout)
        self.assertIsInstance(value, dict)
        self.assertEqual(done.stdout.count("\n"), 1)
        return value

    def fails(self, *arguments, status=1, says=(), quietly=True):
        """Exit status, nothing on standard output, one line that names what it should."""
        done = run(*arguments)
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stderr[-2000:]}")
        if quietly:
            self.assertEqual(done.stdout, "")
        lines = [line for line in done.stderr.splitlines() if line.startswith("deltacome")]
        self.assertEqual(len(lines), 1, done.stderr[-2000:])
        self.assertTrue(done.stderr.rstrip("\n").endswith(lines[0]), done.stderr[-2000:])
        for word in says:
            self.assertIn(str(word), lines[0])
        return lines[0]

    def compress(self, name, *options, base=BASE, finetuned=FINETUNED, method="come"):
        out = self.scratch / name
        if method:  # None: the program's own choice
            options = ("--method", method, *options)
        self.ok("compress", "--base", base, "--finetuned", finetuned, "--out", out, *options)
        return out

    def model(self, name, change, of=FINETUNED):
        """A copy of a model whose tensors `change` has edited."""
        out = self.scratch / name
        shutil.copytree(of, out)
        tensors, _ = read_safetensors(out / "model.safetensors")
        change(tensors)
        write_safetensors(out / "model.safetensors", tensors)
        return out
