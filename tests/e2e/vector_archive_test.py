# SPDX-License-Identifier: Apache-2.0
"""Archives with vector codes and gains, made by hand after docs/format.md: what the program reads
out of them is what the independent reader does, in every command that reads archives."""

import hashlib
import json
import os
import shutil
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import BASE, FINETUNED, ROOT, CliTest, read_safetensors, run, write_safetensors  # noqa: E402

sys.path.insert(0, str(ROOT / "tools"))
import read_archive  # noqa: E402

BOOK = "gauss-1"


def parts(*arrays):
    """A blob: parts at multiples of 16 bytes."""
    out = b""
    for array in arrays:
        out += array.tobytes()
        out += bytes(-len(out) % 16)
    return out


def rewrite(archive, out, change):
    """A copy of an archive after change(entry, blob) -> (entry, blob) of each tensor, with right hashes."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(archive, out)
    blobs, _ = read_safetensors(out / "delta.safetensors")
    config = json.loads((out / "delta_config.json").read_text())
    tensors = {}
    for i, old in enumerate(config["tensors"]):
        entry, blob = change(dict(old), blobs[old["name"]][2])
        entry["sha256"] = hashlib.sha256(blob).hexdigest()
        config["tensors"][i] = entry
        tensors[entry["name"]] = ("U8", [len(blob)], blob)
    write_safetensors(out / "delta.safetensors", tensors)
    (out / "delta_config.json").write_text(json.dumps(config))
    names = [line.split("  ")[1] for line in (out / "MANIFEST.sha256").read_text().splitlines()]
    (out / "MANIFEST.sha256").write_text("".join(
        f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}\n" for name in names))
    return out


class VectorArchives(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.plain = cls.scratch / "plain"
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", cls.plain, "--bits", "1",
                   "--method", "lowrank")
        assert done.returncode == 0, done.stderr
        cls.random = np.random.default_rng(11)
        cls.inputs = {}  # gains of an input, by layer and kind: matrices that share one share them
        cls.archive = rewrite(cls.plain, cls.scratch / "vector", cls.recode)

    @classmethod
    def gains(cls, n):
        return cls.random.integers(96, 161, n).astype(np.uint8)

    @classmethod
    def to_vector(cls, entry, dim, block, gains, spread):
        """Random codes: what they stand for is not the point here."""
        rows, n_in = entry["shape"]
        codes = cls.random.integers(0, 256, (rows, -(-n_in // dim))).astype(np.uint8)
        scales = (spread * cls.random.uniform(0.5, 1, rows)).astype(np.float16)
        kept = {key: entry[key] for key in ("name", "shape")}
        kept |= {"codec": "vector", "book": {"id": BOOK, "dim": dim},
                 "rotation": {"block": block, "seed": 2**63 + 5}}
        if gains is not None:
            kept["gains"] = ["column"]
        return kept, parts(scales, codes, *([] if gains is None else [gains]))

    @classmethod
    def recode(cls, entry, blob):
        name = entry["name"]
        if not name.endswith("_proj.weight"):
            return entry, blob
        layer, kind = int(name.split(".")[2]), name.split(".")[4]
        rows, n_in = entry["shape"]
        if kind in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            gains = cls.inputs.setdefault((layer, kind in ("gate_proj", "up_proj")), cls.gains(n_in))
            dim = (4, 6, 8, 12, 16)[(layer + len(kind)) % 5]
            return cls.to_vector(entry, dim, 256, gains, 0.002)
        if kind == "o_proj":
            return cls.to_vector(entry, 16, 1 << layer, None, 0.002)  # blocks 1, 2, 4 and 8
        entry["gains"] = (["row"], ["column"], ["row", "column"], ["row"])[layer]
        both = {"row": rows, "column": n_in}
        return entry, blob + parts(*(cls.gains(both[gain]) for gain in entry["gains"]))

    def test_verify_and_inspect_describe_it(self):
        self.ok("verify", self.archive, "--base", BASE)
        tensors = {t["name"]: t for t in self.json("inspect", self.archive)["tensors"]}
        q = tensors["model.layers.1.self_attn.q_proj.weight"]
        self.assertEqual((q["codec"], q["gains"]), ("vector", ["column"]))
        self.assertEqual(q["vector"], {"dim": 8, "bits": 1})
        down = tensors["model.layers.2.mlp.down_proj.weight"]
        self.assertEqual((down["codec"], down["vector"], down["gains"]), ("lowrank", None, ["row", "column"]))
        text = self.ok("inspect", self.archive).stdout
        self.assertIn("vector 16 (0.5 bit)", text)
        self.assertNotIn("vector 16 (0.5 bit) + gains", text)

    def test_merge_equals_base_plus_decoded_delta_and_the_coded_run(self):
        merged = self.scratch / "merged"
        self.ok("merge", "--base", BASE, "--delta", self.archive, "--out", merged)
        worst, where = read_archive.compare(read_archive.Archive(self.archive), BASE, merged)
        self.assertLessEqual(worst, 1, where)
        self.assertGreater(read_archive.compare(read_archive.Archive(self.plain), BASE, merged)[0], 1)
        result = self.json("eval", "--base", BASE, "--delta", self.archive, "--reference", merged,
                           "--data", self.data)
        self.assertLess(result["kl"], 2e-4)
        self.assertGreater(result["top1"], 0.98)
        plain = self.json("eval", "--base", BASE, "--delta", self.plain, "--reference", merged,
                          "--data", self.data, "--no-generate")
        self.assertGreater(plain["kl"], 100 * result["kl"])
        self.ok("generate", "--base", BASE, "--delta", self.archive, "--prompt", "Tom", "--max-tokens", 4)

    def test_an_embedding_of_vector_codes_is_refused_where_it_is_loaded(self):
        def change(entry, blob):
            if entry["name"] != "model.embed_tokens.weight":
                return entry, blob
            return self.to_vector(entry, 8, 256, None, 0.01)

        archive = rewrite(self.plain, self.scratch / "embedding", change)
        self.ok("verify", archive)
        for command in (["generate", "--prompt", "x"], ["eval", "--data", self.data, "--no-generate"]):
            self.fails(*command, "--base", BASE, "--delta", archive,
                       says=["model.embed_tokens.weight", "an embedding stored as codec vector"])

    def test_a_norm_of_vector_codes_is_corrupt(self):
        def change(entry, blob):
            if entry["name"] != "model.norm.weight":
                return entry, blob
            return {"name": entry["name"], "shape": entry["shape"], "codec": "vector",
                    "book": {"id": BOOK, "dim": 8}, "rotation": {"block": 1, "seed": 0}}, blob

        archive = rewrite(self.plain, self.scratch / "norm", change)
        self.fails("verify", archive, says=["model.norm.weight"])
        self.fails("generate", "--base", BASE, "--delta", archive, "--prompt", "x", says=["model.norm.weight"])

    def test_books_and_gains_of_another_version_are_refused_by_name(self):
        for field, value, word in (("book", {"id": "gauss-9", "dim": 8}, "gauss-9"),
                                   ("book", {"id": BOOK, "dim": 10}, "10"),
                                   ("gains", ["column", "time"], "time")):
            def change(entry, blob, field=field, value=value):
                if entry["codec"] == "vector":
                    entry[field] = value
                return entry, blob

            with self.subTest(field=field, value=value):
                archive = rewrite(self.archive, self.scratch / "newer", change)
                self.fails("verify", archive, says=[word])
                with self.assertRaises(ValueError):
                    reader = read_archive.Archive(archive)
                    for name in reader.entries:
                        reader.decode(name)
