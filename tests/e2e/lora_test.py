# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's layout: run as they are, converted, merged."""

import json
import os
import shutil
import sys
import unittest

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, os.path.dirname(__file__))
from support import BASE, PROMPT, CliTest, contents, read_safetensors, run  # noqa: E402

RANKS = {"q_proj": 4, "down_proj": 6}
ALPHA = 8.0


def bf16(values):
    """float32 of what BF16 keeps, round to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


class Lora(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        base, _ = read_safetensors(BASE / "model.safetensors")
        cls.base = {name: (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
                    .reshape(shape) for name, (dtype, shape, data) in base.items() if dtype == "BF16"}
        random = np.random.default_rng(5)
        cls.factors = {}
        for name, weight in cls.base.items():
            rank = next((r for kind, r in RANKS.items() if name.endswith(f".{kind}.weight")), None)
            if rank is None:
                continue
            n_out, n_in = weight.shape
            spread = np.sqrt(0.3 * np.abs(weight).mean()) / rank ** 0.25
            cls.factors[name] = (random.normal(0, spread, (rank, n_in)).astype(np.float16),
                                 random.normal(0, spread, (n_out, rank)).astype(np.float16))
        assert cls.factors
        cls.adapter = cls.write("adapter")
        cls.archive = cls.scratch / "archive"
        done = run("compress", "--base", BASE, "--finetuned", cls.adapter, "--out", cls.archive, "--json")
        assert done.returncode == 0, done.stderr
        cls.report = json.loads(done.stdout)

    @classmethod
    def write(cls, name, change=lambda tensors: None, **fields):
        out = cls.scratch / name
        out.mkdir()
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny-base",
                  "r": RANKS["q_proj"], "lora_alpha": ALPHA, "bias": "none",
                  "target_modules": sorted(RANKS), "rank_pattern": {"down_proj": RANKS["down_proj"]},
                  "alpha_pattern": {}, **fields}
        (out / "adapter_config.json").write_text(json.dumps(config))
        tensors = {}
        for module, (a, b) in cls.factors.items():
            stem = "base_model.model." + module.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = a, b
        change(tensors)
        save_file(tensors, out / "adapter_model.safetensors")
        return out

    def generations(self, delta):
        rows = self.scratch / "generations.jsonl"
        result = self.json("eval", "--base", BASE, "--delta", delta, "--data", self.data,
                           "--max-tokens", 24, "--generations", rows)
        result.pop("seconds")
        return result, rows.read_text()

    def test_an_adapter_and_its_archive_give_the_same(self):
        self.assertEqual(self.generations(self.adapter), self.generations(self.archive))
        base = self.json("eval", "--base", BASE, "--data", self.data, "--no-generate")
        self.assertNotAlmostEqual(base["nll"], self.generations(self.adapter)[0]["nll"], places=2)
        tokens = [self.json("generate", "--base", BASE, "--delta", delta, "--prompt", PROMPT.format(12, 7),
                            "--max-tokens", 32)["token_ids"] for delta in (self.adapter, self.archive)]
        self.assertTrue(tokens[0])
        self.assertEqual(*tokens)

    def test_the_archive_is_an_ordinary_one(self):
        self.ok("verify", self.archive, "--base", BASE)
        info = self.json("inspect", self.archive)
        self.assertEqual((info["method"], info["base"], info["finetuned"]), ("lora", "tiny-base", "adapter"))
        self.assertEqual(len(info["tensors"]), len(self.factors))
        self.assertGreater(info["bits_per_weight"], 0)
        self.assertEqual({row["kind"]: row["rank"] for row in self.report["summary"]}, RANKS)
        for name in ("config.json", "tokenizer.json"):
            self.assertEqual((self.archive / name).read_bytes(), (BASE / name).read_bytes())
        self.assertIn("lora", self.ok("inspect", self.archive).stdout)

    def test_inspect_describes_the_adapter_itself(self):
        info = self.json("inspect", self.adapter)
        self.assertEqual((info["method"], info["base"]), ("lora", "tiny-base"))
        self.assertIsNone(info["bits_per_weight"])
        self.assertEqual({t["kind"]: t["rank"] for t in info["tensors"]}, RANKS)
        self.assertEqual(info["all_in_bytes"], sum(len(d) for d in contents(self.adapter).values()))
        self.assertEqual(info["finetuned_hash"], self.json("inspect", self.archive)["finetuned_hash"])
        self.assertIn("down_proj", self.ok("inspect", self.adapter).stdout)

    def test_merged_weights_are_base_plus_scaled_product(self):
        merged = self.scratch / "merged"
        self.ok("merge", "--base", BASE, "--delta", self.archive, "--out", merged)
        tensors, _ = read_safetensors(merged / "model.safetensors")
        for name, (dtype, shape, data) in tensors.items():
            got = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
            if name not in self.factors:
                self.assertTrue(np.array_equal(got, self.base[name]), name)
                continue
            a, b = (x.astype(np.float64) for x in self.factors[name])
            scale = ALPHA / len(a)
            want = self.base[name] + scale * (b @ a)
            # Half a step of BF16, and what U loses where bf16 cannot hold the scale: half a step of fp16.
            bound = 2.0 ** -9 * np.exp2(np.floor(np.log2(np.abs(want) + 1e-30)) + 1)
            bound += 2.0 ** -11 * scale * (np.abs(b) @ np.abs(a)) + 1e-9
            self.assertLess(np.max(np.abs(got - want) / bound), 1.001, name)
            if scale == 2:  # nothing is lost but by the last rounding
                self.assertGreater(np.mean(got == bf16(want)), 0.999, name)

    def test_files_of_the_adapter_go_before_those_of_the_base(self):
        adapter = self.write("with-tokenizer")
        shutil.copy(BASE / "tokenizer.json", adapter)
        (adapter / "generation_config.json").write_text('{"eos_token_id": [2, 9]}')
        out = self.compress("archive-with-tokenizer", finetuned=adapter, method=None)
        self.assertFalse((out / "tokenizer_config.json").exists())
        self.assertEqual(json.loads((out / "generation_config.json").read_text())["eos_token_id"], [2, 9])
        self.assertEqual(self.generations(adapter), self.generations(out))

    def test_modules_that_are_saved_whole_replace_the_bases(self):
        """A head, a norm and embeddings with two more tokens; the adapter brings its configuration."""
        random = np.random.default_rng(6)
        added = {name: (random.normal(0, 0.02, (2, self.base[name].shape[1]))).astype(np.float32)
                 for name in ("model.embed_tokens.weight", "lm_head.weight")}
        whole = {name: np.concatenate([0.9 * self.base[name], rows]) for name, rows in added.items()}
        whole["model.norm.weight"] = bf16(1.5 * self.base["model.norm.weight"])

        def save(tensors):
            tensors.update({"base_model.model." + name: tensor for name, tensor in whole.items()})

        adapter = self.write("whole", change=save, modules_to_save=["embed_tokens", "lm_head", "model.norm"])
        self.fails("generate", "--base", BASE, "--delta", adapter, "--prompt", "x",
                   says=["vocab_size is 2048, expected 2050, the rows of the adapter's"])
        config = json.loads((BASE / "config.json").read_text())
        (adapter / "config.json").write_text(json.dumps({**config, "vocab_size": 2050}))
        out = self.compress("archive-whole", finetuned=adapter, method=None)
        self.assertEqual(self.generations(adapter), self.generations(out))
        self.assertNotEqual(self.generations(adapter), self.generations(self.adapter))
        codecs = {t["name"]: t["codec"] for t in self.json("inspect", adapter)["tensors"]}
        self.assertEqual({name for name, codec in codecs.items() if codec == "raw"}, set(whole))
        merged = self.scratch / "merged-whole"
        self.ok("merge", "--base", BASE, "--delta", adapter, "--out", merged, "--dtype", "f32")
        tensors, _ = read_safetensors(merged / "model.safetensors")
        for name, want in whole.items():
            _, shape, data = tensors[name]
            self.assertTrue(np.array_equal(np.frombuffer(data, np.float32).reshape(shape), want), name)

    def test_options_without_effect_are_named(self):
        out = self.scratch / "noted"
        report = self.json("compress", "--base", BASE, "--finetuned", self.adapter, "--out", out,
                           "--bits", 2, "--method", "bitdelta")
        self.assertIn("--bits, --method", report["notes"][0])
        self.assertEqual(contents(out), contents(self.archive))
        self.fails("compress", "--base", BASE, "--finetuned", self.adapter, "--out", out, says=["exists"])

    def test_refusals_are_one_sentence(self):
        first = "base_model.model." + next(iter(self.factors)).removesuffix(".weight")

        def widen(tensors):
            tensors[f"{first}.lora_A.weight"] = np.zeros((4, 3), np.float16)

        cases = [("dora", {"use_dora": True}, "use_dora"),
                 ("bias", {"bias": "lora_only"}, "bias"),
                 ("ia3", {"peft_type": "IA3"}, "IA3"),
                 ("shape", {"change": widen}, "[4, 3]")]
        for name, fields, says in cases:
            with self.subTest(name=name):
                adapter = self.write(name, **fields)
                out = self.scratch / "never"
                self.fails("compress", "--base", BASE, "--finetuned", adapter, "--out", out, says=[says])
                self.assertFalse(out.exists())
                self.fails("generate", "--base", BASE, "--delta", adapter, "--prompt", "x", says=[says])
                self.fails("eval", "--base", BASE, "--delta", adapter, "--data", self.data, says=[says])
        self.fails("verify", self.adapter, says=["LoRA adapter"])
        wrong = self.write("own-config")
        config = json.loads((BASE / "config.json").read_text())
        (wrong / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
        self.fails("generate", "--base", BASE, "--delta", wrong, "--prompt", "x", says=["rms_norm_eps"])


if __name__ == "__main__":
    unittest.main()
