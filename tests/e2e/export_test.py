# SPDX-License-Identifier: Apache-2.0
"""What leaves the program: checkpoints, GGUF files, LoRA adapters, model cards; and lineages."""

import json
import math
import os
import shutil
import struct
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import BASE, FINETUNED, ROOT, CliTest, contents, read_safetensors, write_safetensors  # noqa: E402

GOLDENS = ROOT / "tests/data/goldens"


def values(tensor):
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32).reshape(shape)


def bf16(array):
    """Bytes of BF16, round to nearest even."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


def weights(directory):
    index = directory / "model.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    return {name: tensor for file in files for name, tensor in read_safetensors(directory / file)[0].items()}


class Reader:
    """A GGUF file, read by the format's description alone."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0
        assert self.data[:4] == b"GGUF"
        self.at = 4
        version, n_tensors, n_pairs = self.take("<I"), self.take("<Q"), self.take("<Q")
        assert version == 3
        self.pairs = {}
        for _ in range(n_pairs):
            key = self.text()
            self.pairs[key] = self.value(self.take("<I"))
        described = []
        for _ in range(n_tensors):
            name = self.text()
            shape = [self.take("<Q") for _ in range(self.take("<I"))][::-1]
            described.append((name, shape, self.take("<I"), self.take("<Q")))
        begin = (self.at + 31) // 32 * 32
        self.tensors = {}
        for name, shape, kind, offset in described:
            n = math.prod(shape)
            assert offset % 32 == 0
            size = {0: 4 * n, 1: 2 * n, 8: n // 32 * 34, 30: 2 * n}[kind]
            data = self.data[begin + offset:begin + offset + size]
            assert len(data) == size, name
            if kind == 8:
                blocks = np.frombuffer(data, np.dtype([("d", np.float16), ("q", np.int8, 32)]))
                array = (blocks["d"][:, None].astype(np.float32) * blocks["q"]).reshape(shape)
            else:
                array = values(({0: "F32", 1: "F16", 30: "BF16"}[kind], shape, data))
            self.tensors[name] = (kind, array)

    def take(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        n = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, n = self.take("<I"), self.take("<Q")
            return [self.value(inner) for _ in range(n)]
        return self.take({4: "<I", 5: "<i", 6: "<f", 7: "<?"}[kind])


class Export(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.archive = cls.scratch / "archive"
        cls.base, cls.finetuned = weights(BASE), weights(FINETUNED)
        from support import run
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", cls.archive, "--method", "come")
        assert done.returncode == 0, done.stderr
        cls.merged = cls.scratch / "merged"
        done = run("merge", "--base", BASE, "--delta", cls.archive, "--out", cls.merged)
        assert done.returncode == 0, done.stderr

    def test_shards_hold_the_same_tensors_and_files(self):
        out = self.scratch / "sharded"
        report = self.json("merge", "--base", BASE, "--delta", self.archive, "--out", out, "--max-shard-size", "2MB")
        index = json.loads((out / "model.safetensors.index.json").read_text())
        self.assertEqual(weights(out), weights(self.merged))
        files = sorted(out.glob("model-*-of-*.safetensors"))
        self.assertEqual(report["shards"], len(files))
        self.assertGreater(len(files), 2)
        self.assertEqual(set(index["weight_map"].values()), {f.name for f in files})
        self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in weights(out).values()))
        for file in files:
            tensors = read_safetensors(file)[0]
            size = sum(len(t[2]) for t in tensors.values())
            self.assertTrue(size <= 2_000_000 or len(tensors) == 1, file)
        others = lambda d: {n: b for n, b in contents(d).items() if not n.startswith("model")}  # noqa: E731
        self.assertEqual(others(out), others(self.merged))
        self.assertIn("tokenizer.json", others(out))
        tokens = [self.json("generate", "--model", d, "--prompt", "12 + 7", "--max-tokens", 8)["token_ids"]
                  for d in (out, self.merged)]
        self.assertEqual(*tokens)

    def test_types_are_rounded_and_named(self):
        out = self.scratch / "f16"
        self.ok("merge", "--base", BASE, "--delta", self.archive, "--out", out, "--dtype", "f16")
        for name, tensor in weights(out).items():
            self.assertEqual(tensor[0], "F16", name)
            # Half a step of BF16 and half a step of F16.
            merged = values(weights(self.merged)[name])
            bound = np.abs(merged) * (2.0 ** -8 + 2.0 ** -11) + 2.0 ** -24
            self.assertTrue(np.all(np.abs(values(tensor) - merged) <= bound), name)
        config = json.loads((out / "config.json").read_text())
        self.assertIn("float16", (config.get("dtype"), config.get("torch_dtype")))

    def test_task_arithmetic_is_the_weighted_sum(self):
        out = self.scratch / "sum"
        self.ok("merge", "--base", BASE, "--delta", FINETUNED, "--weight", 0.5, "--delta", self.merged,
                "--weight", "-0.25", "--out", out, "--dtype", "f32")
        other = weights(self.merged)
        for name, tensor in weights(out).items():
            base = values(self.base[name]).astype(np.float64)
            want = base + 0.5 * (values(self.finetuned[name]) - base) - 0.25 * (values(other[name]) - base)
            self.assertLess(np.max(np.abs(values(tensor) - want)), 1e-5, name)

    def test_dare_repeats_by_seed(self):
        outs = []
        for i, seed in enumerate((1, 1, 2)):
            outs.append(self.scratch / f"dare-{i}")
            self.ok("merge", "--base", BASE, "--delta", FINETUNED, "--combine", "dare", "--density", 0.5,
                    "--seed", seed, "--out", outs[-1])
        first, again, other = (weights(o) for o in outs)
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_a_combination_becomes_an_archive_in_one_step(self):
        other = self.model("other", lambda t: t.update({"model.norm.weight": (
            "BF16", t["model.norm.weight"][1], bf16(2 * values(t["model.norm.weight"])))}))
        plain = ["--method", "bitdelta", "--distill", 0]
        two = ["--finetuned", self.archive, "--finetuned", other, "--combine", "ties", "--density", 0.5]
        out, merged = self.scratch / "ties", self.scratch / "ties-merged"
        self.ok("compress", "--base", BASE, *two, "--out", out, *plain)
        self.assertFalse((self.scratch / "ties.combined").exists())
        self.assertEqual(self.json("inspect", out)["finetuned"], "ties of archive + other")
        self.ok("merge", "--base", BASE, *(o.replace("finetuned", "delta") if isinstance(o, str) else o for o in two),
                "--out", merged)
        steps = self.compress("ties-steps", *plain, finetuned=merged, method=None)
        self.assertEqual((out / "delta.safetensors").read_bytes(), (steps / "delta.safetensors").read_bytes())
        # One fine-tune with a weight is a combination too.
        weighted = self.scratch / "weighted"
        self.ok("compress", "--base", BASE, "--finetuned", FINETUNED, "--weight", 0.5, "--out", weighted, *plain)
        self.assertEqual(self.json("inspect", weighted)["finetuned"], "linear of 0.5 tiny-math")
        self.fails("compress", "--base", BASE, *two, "--weight", 1, "--out", self.scratch / "none", status=2, says=["--weight"])
        self.fails("compress", "--base", BASE, *two, "--out", out, says=["exists"])

    def test_wrong_merges_are_refused(self):
        out = self.scratch / "none"
        base = ["merge", "--base", BASE, "--delta", self.archive, "--out", out]
        self.fails(*base, "--weight", 1, "--weight", 2, status=2, says=["--weight"])
        self.fails(*base, "--max-shard-size", "3 apples", status=2, says=["3 apples"])
        self.fails(*base, "--max-shard-size", "7", says=["7 bytes"])
        self.fails(*base, "--combine", "ties", "--density", "0", status=2, says=["0"])
        self.fails(*base, "--dtype", "int3", status=2, says=["int3"])
        self.fails("merge", "--base", FINETUNED, "--delta", self.archive, "--out", out, says=["content hash"])
        self.fails("merge", "--base", BASE, "--delta", self.archive, "--out", self.merged, says=["exists"])
        self.fails("merge", "--base", BASE, "--delta", GOLDENS / "qwen2", "--out", out, says=["architecture"])
        big = self.model("big", lambda t: t.update({"model.norm.weight": (
            "F32", t["model.norm.weight"][1], struct.pack("<f", 1e6) * t["model.norm.weight"][1][0])}))
        self.fails("merge", "--base", BASE, "--delta", big, "--out", out, "--dtype", "f16", says=["model.norm.weight", "65504"])
        self.assertFalse(out.exists())

    def test_gguf_holds_the_merged_weights_and_the_tokenizer(self):
        merged = weights(self.merged)
        heads = 4
        for kind, code, error in (("bf16", 30, 0), ("f16", 1, 2.0 ** -11), ("q8_0", 8, None)):
            out = self.scratch / f"{kind}.gguf"
            self.ok("export", "--to", "gguf", "--base", BASE, "--delta", self.archive, "--type", kind, "--out", out)
            read = Reader(out)
            self.assertEqual(read.pairs["general.architecture"], "llama")
            self.assertEqual(read.pairs["llama.attention.head_count"], heads)
            tokenizer = json.loads((FINETUNED / "tokenizer.json").read_text())
            for token, i in tokenizer["model"]["vocab"].items():
                self.assertEqual(read.pairs["tokenizer.ggml.tokens"][i], token)
            self.assertTrue(read.pairs["tokenizer.ggml.add_bos_token"])
            self.assertIn("### Instruction", read.pairs["tokenizer.chat_template"])
            self.assertEqual(len(read.tensors), len(merged))
            got_kind, got = read.tensors["blk.1.attn_q.weight"]
            want = values(merged["model.layers.1.self_attn.q_proj.weight"])
            want = want.reshape(heads, 2, -1, want.shape[1]).swapaxes(1, 2).reshape(want.shape)
            self.assertEqual(got_kind, code)
            if error is None:  # half a step of a block, and its scale in fp16
                step = np.abs(want).reshape(want.shape[0], -1, 32).max(-1, keepdims=True) / 127
                bound = (step * (0.5 + 127 * 2.0 ** -11)) * np.ones((1, 1, 32)) + 1e-7
                self.assertTrue(np.all(np.abs(got - want).reshape(bound.shape) <= bound))
            else:
                self.assertTrue(np.all(np.abs(got - want) <= error * np.abs(want) + (2.0 ** -25 if error else 0)))
            self.assertEqual(read.tensors["output_norm.weight"][0], 0)

    def test_scores_follow_sentencepiece(self):
        """The order of merging is that of the model file from which the tokenizer was made."""
        out = self.scratch / "vocabulary.gguf"
        done = self.ok("export", "--to", "gguf", "--base", BASE, "--out", out)
        self.assertNotIn("split", done.stderr)
        pairs = Reader(out).pairs
        merges = json.loads((BASE / "tokenizer.json").read_text())["model"]["merges"]
        score = dict(zip(pairs["tokenizer.ggml.tokens"], pairs["tokenizer.ggml.scores"]))
        scores = [score["".join(m)] for m in merges]
        self.assertEqual(scores, sorted(scores, reverse=True))

    def test_gguf_of_other_architectures(self):
        for name in ("llama3", "qwen2", "qwen3", "mistral"):
            out = self.scratch / f"{name}.gguf"
            report = self.json("export", "--to", "gguf", "--base", GOLDENS / name, "--type", "f32", "--out", out)
            read = Reader(out)
            self.assertEqual(read.pairs["tokenizer.ggml.model"], "none")
            self.assertEqual("rope_freqs.weight" in read.tensors, name == "llama3")
            self.assertTrue(any("tokenizer.json" in note for note in report["notes"]))
            self.assertEqual(any("16 tokens" in note for note in report["notes"]), name == "mistral")

    def test_phi3_keeps_its_fused_projections(self):
        base = GOLDENS / "phi3"
        finetuned = self.model("phi3-finetuned", lambda t: t.update({name: (
            dtype, shape, (1.25 * values((dtype, shape, data))).astype(np.float32).tobytes())
            for name, (dtype, shape, data) in t.items() if "_proj" in name}), of=base)
        archive, merged = self.scratch / "phi3-archive", self.scratch / "phi3-merged"
        self.ok("compress", "--base", base, "--finetuned", finetuned, "--out", archive, "--method", "lowrank", "--bits", 15)
        kinds = {t["kind"] for t in self.json("inspect", archive)["tensors"]}
        self.assertEqual(kinds, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
        self.ok("verify", archive, "--base", base)
        self.ok("merge", "--base", base, "--delta", archive, "--out", merged)
        want, got = weights(finetuned), weights(merged)
        self.assertEqual({n: t[:2] for n, t in got.items()}, {n: t[:2] for n, t in want.items()})
        self.assertIn("model.layers.1.mlp.gate_up_proj.weight", got)
        ok = self.scratch / "phi3-whole"
        self.ok("merge", "--base", base, "--delta", finetuned, "--out", ok)
        self.assertEqual(weights(ok), want)
        out = self.scratch / "phi3.gguf"
        self.ok("export", "--to", "gguf", "--base", base, "--type", "f32", "--out", out)
        gguf = Reader(out)
        self.assertEqual(gguf.pairs["general.architecture"], "llama")
        self.assertIn("blk.1.ffn_up.weight", gguf.tensors)
        self.fails("export", "--to", "peft", "--base", base, "--delta", finetuned, "--rank", 2, "--out", self.scratch / "no",
                   says=["Phi3ForCausalLM keeps several projections", "qkv_proj"])

    def test_wrong_exports_are_refused(self):
        out = self.scratch / "none.gguf"
        gguf = ["export", "--to", "gguf", "--base", BASE, "--out", out]
        self.fails(*gguf, "--delta", self.scratch / "nowhere", says=["nowhere"])
        self.fails(*gguf, "--rank", 4, status=2, says=["--rank"])
        self.fails(*gguf, "--type", "q4_0", status=2, says=["q4_0"])
        broken = self.scratch / "broken"
        shutil.copytree(BASE, broken)
        text = json.loads((broken / "tokenizer.json").read_text())
        text["model"]["byte_fallback"] = False
        (broken / "tokenizer.json").write_text(json.dumps(text))
        self.fails("export", "--to", "gguf", "--base", broken, "--out", out, says=["llama.cpp"])
        self.assertFalse(out.exists())
        out.write_text("mine")
        self.fails(*gguf, says=["exists"])
        self.assertEqual(out.read_text(), "mine")
        peft = ["export", "--to", "peft", "--base", BASE, "--out", self.scratch / "no-peft"]
        self.fails(*peft, "--rank", 4, status=2, says=["--delta"])
        self.fails(*peft, "--delta", self.archive, status=2, says=["--rank"])
        self.fails(*peft, "--delta", self.archive, "--rank", 4000, says=["4000"])
        self.fails(*peft, "--delta", self.archive, "--rank", 4, "--weight", 2, status=2, says=["--weight"])
        self.assertFalse((self.scratch / "no-peft").exists())

    def adapter(self, name, *options, delta=FINETUNED, rank=8):
        out = self.scratch / name
        return out, self.json("export", "--to", "peft", "--base", BASE, "--delta", delta, "--rank", rank, "--out", out, *options)

    def test_adapter_is_the_best_of_its_rank(self):
        out, report = self.adapter("lora")
        factors = read_safetensors(out / "adapter_model.safetensors")[0]
        errors = {}
        for name in self.base:
            if "proj" not in name:
                continue
            stem = "base_model.model." + name.removesuffix(".weight")
            a, b = values(factors[f"{stem}.lora_A.weight"]), values(factors[f"{stem}.lora_B.weight"])
            delta = values(self.finetuned[name]).astype(np.float64) - values(self.base[name])
            s = np.linalg.svd(delta, compute_uv=False) ** 2
            lost = np.linalg.norm(delta - b.astype(np.float64) @ a) ** 2
            self.assertAlmostEqual(lost / s[8:].sum(), 1, places=4, msg=name)
            errors.setdefault(name.split(".")[-2], []).append(lost / s.sum())
        for kind in report["kinds"]:
            self.assertAlmostEqual(kind["error"], np.mean(errors[kind["kind"]]), places=4)
            self.assertIsNone(kind["output_error"])
        self.assertTrue(any("embeddings" in note for note in report["notes"]))

    def test_adapter_is_read_back(self):
        out, _ = self.adapter("lora-16", "--type", "bf16", delta=self.archive, rank=16)
        info = self.json("inspect", out)
        self.assertEqual(info["method"], "lora")
        self.assertEqual({t["rank"] for t in info["tensors"]}, {16})
        nll = [self.json("eval", "--base", BASE, *delta, "--data", self.data, "--no-generate")["nll"]
               for delta in ((), ("--delta", out), ("--delta", self.archive))]
        self.assertLess(nll[1], 0.8 * nll[0])
        self.assertLess(nll[2], nll[1])

    def test_calibration_trades_weights_for_outputs(self):
        _, plain = self.adapter("plain")
        _, seen = self.adapter("seen", "--calib", self.calib)
        for before, after in zip(plain["kinds"], seen["kinds"]):
            self.assertGreaterEqual(after["error"], before["error"] - 1e-9)
            self.assertLess(after["output_error"], before["error"])
        self.assertGreater(seen["calibration_tokens"], 0)

    def test_card_tells_what_inspect_tells(self):
        self.ok("card", self.archive)
        self.addCleanup((self.archive / "README.md").unlink)
        card = (self.archive / "README.md").read_text()
        info = self.json("inspect", self.archive)
        self.assertTrue(card.startswith('---\nbase_model: "tiny-base"\n'))
        for fact in (info["base_hash"], info["finetuned_hash"], f'{info["bits_per_weight"]:.3f}', info["method"]):
            self.assertIn(fact, card)
        self.ok("verify", self.archive, "--base", BASE)
        self.fails("card", self.archive, says=["exists"])
        printed = self.ok("card", self.archive, "--print", "--license", "mit", "--base-model", "a/b: c").stdout
        self.assertIn('license: "mit"', printed)
        self.assertIn('base_model: "a/b: c"', printed)
        self.fails("card", BASE, says=["not a deltacome archive"])

    def test_diff_of_a_fine_tune_with_itself_and_its_half(self):
        half = self.scratch / "half"
        shutil.copytree(FINETUNED, half)
        tensors = {name: ("F32", t[1], (values(self.base[name]) - 0.5 * (values(self.finetuned[name]) - values(self.base[name])))
                          .astype(np.float32).tobytes()) for name, t in self.base.items()}
        write_safetensors(half / "model.safetensors", tensors)
        report = self.json("diff", FINETUNED, half, "--base", BASE)
        self.assertEqual((report["form_a"], len(report["tensors"])), ("checkpoint", len(self.base)))
        for t in report["tensors"]:
            base, delta = values(self.base[t["name"]]), values(self.finetuned[t["name"]]) - values(self.base[t["name"]])
            if not delta.any():
                continue
            self.assertAlmostEqual(t["relative_norm_a"], np.linalg.norm(delta) / np.linalg.norm(base), places=4)
            self.assertAlmostEqual(t["relative_norm_b"] / t["relative_norm_a"], 0.5, places=4)
            self.assertAlmostEqual(t["cosine"], -1, places=4)
        same = self.json("diff", self.archive, self.merged, "--base", BASE)
        self.assertGreater(same["all"]["cosine"], 0.99)
        self.assertIn("layer 3", self.ok("diff", self.archive, FINETUNED, "--base", BASE).stdout)
        self.assertIn("layers.2.mlp.up_proj", self.ok("diff", self.archive, FINETUNED, "--base", BASE, "--tensors").stdout)
        self.fails("diff", self.archive, GOLDENS / "qwen2", "--base", BASE, says=["architecture"])

    def test_delta_of_a_delta(self):
        """A fine-tune of (base + archive): its archive needs both, in that order."""
        random = np.random.default_rng(3)

        def change(tensors):
            for name, (dtype, shape, data) in tensors.items():
                if name.endswith("v_proj.weight"):
                    w = values((dtype, shape, data))
                    tensors[name] = (dtype, shape, bf16(w + random.normal(0, 0.05, (shape[0], 1)) @ random.normal(0, 0.2, (1, shape[1]))))

        child = self.model("child", change, of=self.merged)
        out = self.scratch / "second"
        on = ("--base", BASE, "--base-delta", self.archive)
        self.ok("compress", *on, "--finetuned", child, "--out", out, "--method", "come")
        info = self.json("inspect", out)
        self.assertLess(info["all_in_bytes"], self.json("inspect", self.archive)["all_in_bytes"])
        self.ok("verify", out, *on)
        run = lambda *options: self.json("generate", *options, "--prompt", "12 + 7", "--max-tokens", 12)["token_ids"]  # noqa: E731
        merged = self.scratch / "second-merged"
        self.ok("merge", *on, "--delta", out, "--out", merged)
        drift = self.json("diff", merged, child, *on)
        self.assertGreater(drift["all"]["cosine"], 0.9)
        self.assertEqual(len(run(*on, "--delta", out)), len(run("--model", merged)))
        scores = [self.json("eval", *options, "--data", self.data, "--no-generate")["nll"]
                  for options in ((*on, "--delta", out), ("--base", BASE, "--model", merged))]
        self.assertAlmostEqual(*scores, delta=0.02)
        for command in (("generate", "--prompt", "x"), ("eval", "--data", self.data), ("merge", "--out", self.scratch / "no")):
            self.fails(*command, "--base", BASE, "--delta", out, says=["--base-delta", self.archive.name])
        self.fails("verify", out, "--base", BASE, says=["--base-delta"])
        self.fails("verify", out, "--base-delta", self.archive, status=2, says=["--base"])
        self.fails("verify", self.archive, *on, says=["content hash"])
        self.fails("generate", "--base", BASE, "--base-delta", FINETUNED, "--prompt", "x", says=["expected an archive"])
        self.assertIn("--base-delta", self.ok("card", out, "--print").stdout)


if __name__ == "__main__":
    unittest.main()
