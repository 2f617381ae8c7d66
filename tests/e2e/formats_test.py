# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that users bring: PyTorch files, quantized bases and deltas on them, BitDelta's diffs."""

import io
import json
import os
import pickle
import sys
import unittest
import zipfile
from collections import OrderedDict

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import (BASE, FINETUNED, ROOT, CliTest, copy_without_weights, quantize_int8, read_safetensors,  # noqa: E402
                     run, to_float, write_safetensors)

DATA = ROOT / "tests/data/eval/math.jsonl"
STORAGES = {"BF16": "BFloat16Storage", "F32": "FloatStorage", "I32": "IntStorage"}


class Global:
    """A name in another module, as a pickle refers to it; reduced with arguments it is a call."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    """Writes what torch.save does for tensors, without torch: calls of names, storages by id."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            return self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        if isinstance(obj, tuple) and obj and obj[0] == "TENSOR":
            _, key, dtype, shape = obj
            elements = int(np.prod(shape))
            strides = tuple(int(np.prod(shape[i + 1:])) for i in range(len(shape)))
            self.save(Global("torch._utils", "_rebuild_tensor_v2"))
            self.write(pickle.MARK)
            super().save(("storage", Global("torch", STORAGES[dtype]), key, "cpu", elements))
            self.write(pickle.BINPERSID)
            for part in (0, tuple(shape), strides, False):
                super().save(part)
            super().save(OrderedDict())
            return self.write(pickle.TUPLE + pickle.REDUCE)
        return super().save(obj, save_persistent_id)


def write_torch(path, tensors):
    """{name: (dtype, shape, bytes)} as a file of torch.save."""
    text = io.BytesIO()
    TorchPickler(text, protocol=2).dump(
        {name: ("TENSOR", str(i), dtype, shape) for i, (name, (dtype, shape, _)) in enumerate(tensors.items())})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("m/data.pkl", text.getvalue())
        file.writestr("m/version", "3\n")
        for i, (_, _, data) in enumerate(tensors.values()):
            file.writestr(f"m/data/{i}", data)


def as_phi3(source, target):
    """A Llama checkpoint without biases in the form of Phi-3: the same rows, fused."""
    copy_without_weights(source, target)
    config = json.loads((target / "config.json").read_text())
    config.update({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "sliding_window": None,
                   "pad_token_id": 0})
    (target / "config.json").write_text(json.dumps(config))
    tensors = read_safetensors(source / "model.safetensors")[0]
    for whole, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
        for first in [name for name in tensors if name.endswith(f".{parts[0]}.weight")]:
            taken = [tensors.pop(first.replace(parts[0], part)) for part in parts]
            shape = [sum(rows for _, (rows, _), _ in taken), taken[0][1][1]]
            tensors[first.replace(parts[0], whole)] = (taken[0][0], shape, b"".join(data for _, _, data in taken))
    write_safetensors(target / "model.safetensors", tensors)
    return target


class Formats(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tensors = read_safetensors(BASE / "model.safetensors")[0]
        cls.int8 = quantize_int8(BASE, cls.scratch / "int8")

    def scores(self, *arguments):
        done = run("eval", *arguments, "--data", DATA, "--limit", 4, "--no-generate", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def compressed(self, base, finetuned, name):
        out = self.scratch / name
        done = run("compress", "--base", base, "--finetuned", finetuned, "--out", out, "--method", "bitdelta",
                   "--distill", "0", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return out, json.loads(done.stdout)

    def test_a_pytorch_checkpoint_is_the_same_base(self):
        directory = copy_without_weights(BASE, self.scratch / "torch")
        write_torch(directory / "pytorch_model.bin", self.tensors)
        same = self.scores("--model", directory, "--reference", BASE)
        self.assertEqual((same["kl"], same["top1"]), (0, 1))
        archive, _ = self.compressed(directory, FINETUNED, "of-torch")
        done = run("verify", archive, "--base", BASE)  # equal tensors, equal hash
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_quantized_base_runs_and_has_deltas_of_its_own(self):
        near = self.scores("--model", self.int8, "--reference", BASE)
        self.assertGreater(near["kl"], 0)
        self.assertLess(near["kl"], 0.01)
        archive, report = self.compressed(self.int8, FINETUNED, "of-int8")
        self.assertEqual(report["base_quantization"], "compressed-tensors, int8, strategy channel")
        self.scores("--base", self.int8, "--delta", archive)
        done = run("eval", "--base", BASE, "--delta", archive, "--data", DATA, "--limit", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("content hash", done.stderr)

    def test_deltas_of_the_full_base_run_once_it_is_related(self):
        archive, report = self.compressed(BASE, FINETUNED, "of-full")
        self.assertEqual(report["base_quantization"], "")
        quantized = quantize_int8(BASE, self.scratch / "related")
        refused = run("verify", archive, "--base", quantized)
        self.assertEqual(refused.returncode, 1)
        done = run("relate", quantized, "--quantized-from", FINETUNED)  # the fine-tune is not its base
        self.assertEqual(done.returncode, 1)
        self.assertIn("is not that of", done.stderr)
        done = run("relate", quantized, "--quantized-from", BASE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(run("verify", archive, "--base", quantized).returncode, 0)
        related = self.scores("--base", quantized, "--delta", archive, "--reference", FINETUNED)
        own = self.scores("--base", BASE, "--delta", archive, "--reference", FINETUNED)
        self.assertAlmostEqual(related["kl"], own["kl"], delta=0.02)

    def test_phi3_of_the_same_rows_is_the_same_model(self):
        base, finetuned = as_phi3(BASE, self.scratch / "phi3"), as_phi3(FINETUNED, self.scratch / "phi3-math")
        self.assertEqual(self.scores("--model", finetuned, "--reference", FINETUNED)["kl"], 0)
        ours, _ = self.compressed(base, finetuned, "of-phi3")
        llama, _ = self.compressed(BASE, FINETUNED, "of-llama")
        self.assertEqual((ours / "delta.safetensors").read_bytes(), (llama / "delta.safetensors").read_bytes())
        tokens = [json.loads(run("generate", "--base", b, "--delta", d, "--prompt", "Tom has 3 apples", "--max-tokens", 12,
                                 "--json").stdout)["token_ids"] for b, d in ((base, ours), (BASE, llama))]
        self.assertEqual(*tokens)
        # The same tensors, so the same hash: what keeps them apart is the class.
        done = run("eval", "--base", BASE, "--delta", ours, "--data", DATA, "--limit", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("architecture is Phi3ForCausalLM", done.stderr)

    def test_a_lora_of_fused_projections_is_one_of_each(self):
        random = np.random.default_rng(8)
        base, prefix = as_phi3(BASE, self.scratch / "phi3-lora-base"), "base_model.model.model.layers.0.self_attn."
        a, b = (random.normal(0, 0.1, shape).astype(np.float32) for shape in ((2, 256), (768, 2)))
        config = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4})

        def adapter(name, factors):
            out = self.scratch / name
            out.mkdir()
            (out / "adapter_config.json").write_text(config)
            write_safetensors(out / "adapter_model.safetensors", {
                f"{prefix}{module}.lora_{which}.weight": ("F32", list(value.shape), value.tobytes())
                for module, pair in factors.items() for which, value in zip("AB", pair)})
            return out
        fused = adapter("lora-fused", {"qkv_proj": (a, b)})
        apart = adapter("lora-apart", {name: (a, b[256 * i:256 * (i + 1)])
                                       for i, name in enumerate(("q_proj", "k_proj", "v_proj"))})
        scores = [self.scores("--base", of, "--delta", delta, "--reference", BASE)
                  for of, delta in ((base, fused), (BASE, apart))]
        self.assertGreater(scores[0]["kl"], 0.001)
        self.assertEqual(*({k: s[k] for k in ("nll", "kl", "top1")} for s in scores))
        done = run("eval", "--base", BASE, "--delta", fused, "--data", DATA, "--limit", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("which LlamaForCausalLM keeps apart", done.stderr)

    def test_a_bitdelta_diff_becomes_an_archive(self):
        finetuned, diff, expected = read_safetensors(FINETUNED / "model.safetensors")[0], {}, {}
        for name, tensor in self.tensors.items():
            if not name.endswith("_proj.weight"):
                diff[name] = finetuned[name]
                continue
            delta = to_float(finetuned[name]) - to_float(tensor)
            signs = delta >= 0
            words = np.packbits(signs, axis=1, bitorder="little").view("<u4").T
            module = name.removesuffix(".weight")
            diff[module + ".mask"] = ("I32", list(words.shape), np.ascontiguousarray(words).tobytes())
            coefficient = np.float32(np.abs(delta).mean())
            diff[module + ".coeff"] = ("F32", [], coefficient.tobytes())
            expected[name] = to_float(tensor) + np.where(signs, 1, -1) * coefficient
        path = copy_without_weights(FINETUNED, self.scratch / "bitdelta") / "diff.pt"
        write_torch(path, diff)
        archive = self.scratch / "of-diff"
        done = run("compress", "--base", BASE, "--finetuned", path, "--out", archive, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertAlmostEqual(json.loads(done.stdout)["bits_per_weight"], 1.0, delta=0.01)
        merged = self.scratch / "merged"
        done = run("merge", "--base", BASE, "--delta", archive, "--out", merged)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name, (dtype, shape, data) in read_safetensors(merged / "model.safetensors")[0].items():
            if name in expected:
                got = to_float((dtype, shape, data))
                self.assertLess(np.abs(got - expected[name]).max(), np.abs(expected[name]).max() * 2 ** -7, name)
            else:
                self.assertEqual(data, finetuned[name][2], name)
        child = self.scratch / "of-diff-on-archive"
        done = run("compress", "--base", BASE, "--base-delta", archive, "--finetuned", path, "--out", child)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("verify", child, "--base", BASE)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--base-delta", done.stderr)
        done = run("verify", child, "--base", BASE, "--base-delta", archive)
        self.assertEqual(done.returncode, 0, done.stderr)
        diff["model.layers.0.mlp.up_proj.A"] = diff["model.norm.weight"]
        write_torch(path, diff)
        done = run("compress", "--base", BASE, "--finetuned", path, "--out", self.scratch / "refused")
        self.assertEqual(done.returncode, 1)
        self.assertIn("up_proj.A", done.stderr)


if __name__ == "__main__":
    unittest.main()
