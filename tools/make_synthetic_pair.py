#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a random base and a fine-tune of it in a real model's shapes, to measure memory and time.

    tools/make_synthetic_pair.py OUT [--preset 1b|7b|13b] [--layers 2] [--vocab 8192] [--shard-mb 2000] [--torch cuda]

OUT/base and OUT/finetuned are Llama checkpoints in bf16. Weights are N(0, 0.02); the delta of a
matrix has a decaying spectrum plus dense noise, small beside the weights as in a real fine-tune.
The tokenizer is that of tests/data/models/tiny-base, whose ids fit every preset's vocabulary. A
tensor depends on the seed, its name and its shape alone; a slice of one is in memory at a time.
With --torch a device draws the numbers, others than numpy's: 7B takes seconds instead of minutes.
"""
import argparse
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests/data/models/tiny-base"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
PRESETS = {  # shapes of Llama-3.2-1B, Llama-2-7B, Llama-2-13B
    "1b": dict(hidden=2048, mlp=8192, layers=16, heads=32, kv_heads=8, head_dim=64, vocab=128256, tied=True),
    "7b": dict(hidden=4096, mlp=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab=32000, tied=False),
    "13b": dict(hidden=5120, mlp=13824, layers=40, heads=40, kv_heads=40, head_dim=128, vocab=32000, tied=False),
}
SIGMA = 0.02  # of the weights
STRUCTURED, NOISE = 8e-3, 2e-3  # root mean square of the two parts of a delta, relative to SIGMA
SPECTRUM = 256  # components of the structured part; the i-th has weight 1 / sqrt(i + 1)
SLICE_ROWS = 2048


def tensors(shape):
    """Names and shapes, in the order of the file."""
    hidden, mlp, q, kv = shape["hidden"], shape["mlp"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    out = {"model.embed_tokens.weight": (shape["vocab"], hidden)}
    for i in range(shape["layers"]):
        layer = f"model.layers.{i}."
        out |= {layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,)}
        for name, rows, cols in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            out[f"{layer}self_attn.{name}_proj.weight"] = (rows, cols)
        for name, rows, cols in (("gate", mlp, hidden), ("up", mlp, hidden), ("down", hidden, mlp)):
            out[f"{layer}mlp.{name}_proj.weight"] = (rows, cols)
    out["model.norm.weight"] = (hidden,)
    if not shape["tied"]:
        out["lm_head.weight"] = (shape["vocab"], hidden)
    return out


class NumpyValues:
    """Normal float32 numbers of one tensor, and their bytes as bf16."""

    def __init__(self, name, seed):
        self.random = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def normal(self, *extent):
        return self.random.standard_normal(extent, dtype=np.float32)

    @staticmethod
    def column(values):
        return values[:, None]

    @staticmethod
    def to_bf16(values):  # rounded to nearest even
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").data


class TorchValues:
    device = "cuda"

    def __init__(self, name, seed):
        import torch
        self.torch = torch
        self.random = torch.Generator(self.device).manual_seed(seed << 32 | zlib.crc32(name.encode()))

    def normal(self, *extent):
        return self.torch.randn(extent, generator=self.random, device=self.device)

    def column(self, values):
        return self.torch.from_numpy(values).to(self.device)[:, None]

    def to_bf16(self, values):
        return values.to(self.torch.bfloat16).view(self.torch.int16).cpu().numpy().data


def slices(values, shape):
    """(base, fine-tune) of one tensor, a few rows at a time."""
    normal = values.normal
    if len(shape) == 1:
        base = 1 + SIGMA * normal(*shape)
        yield base, base + NOISE * SIGMA * normal(*shape)
        return
    rows, cols = shape
    rank = min(SPECTRUM, rows, cols)
    spectrum = 1 / np.sqrt(np.arange(1, rank + 1, dtype=np.float32))
    spectrum *= STRUCTURED * SIGMA / np.linalg.norm(spectrum)  # a product of normals has variance sum s^2
    v = values.column(spectrum) * normal(rank, cols)
    for first in range(0, rows, SLICE_ROWS):
        n = min(SLICE_ROWS, rows - first)
        base = SIGMA * normal(n, cols)
        yield base, base + normal(n, rank) @ v + NOISE * SIGMA * normal(n, cols)


def shards_of(shapes, limit):
    """Lists of names, each of at most `limit` bytes unless one tensor is larger."""
    shards, size = [[]], 0
    for name, shape in shapes.items():
        n = 2 * int(np.prod(shape))
        if shards[-1] and size + n > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n
    return shards


def write_header(file, names, shapes):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        begin, end = end, end + 2 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write_pair(out, shape, seed, limit, source=NumpyValues):
    shapes = tensors(shape)
    shards = shards_of(shapes, limit)
    directories = [out / "base", out / "finetuned"]
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=shape["hidden"], intermediate_size=shape["mlp"],
                  num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
                  head_dim=shape["head_dim"], vocab_size=shape["vocab"], rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
                  max_position_embeddings=4096, hidden_act="silu", attention_bias=False, mlp_bias=False,
                  tie_word_embeddings=shape["tied"], torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2)
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for name in TOKENIZER_FILES:
            shutil.copyfile(TOKENIZER / name, directory / name)
    weight_map = {}
    for i, names in enumerate(shards):
        file_name = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        with open(directories[0] / file_name, "wb") as base_file, open(directories[1] / file_name, "wb") as finetuned_file:
            for file in (base_file, finetuned_file):
                write_header(file, names, shapes)
            for name in names:
                weight_map[name] = file_name
                values = source(name, seed)
                for base, finetuned in slices(values, shapes[name]):
                    base_file.write(values.to_bf16(base))
                    finetuned_file.write(values.to_bf16(finetuned))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(2 * int(np.prod(s)) for s in shapes.values())}, "weight_map": weight_map}
        for directory in directories:
            (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--preset", choices=PRESETS, default="1b")
    parser.add_argument("--layers", type=int, help="fewer than the preset's")
    parser.add_argument("--vocab", type=int, help="rows of the embedding; at least the tokenizer's 2048")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-mb", type=int, default=0, help="largest shard in megabytes; 0 = one file")
    parser.add_argument("--torch", metavar="DEVICE", help="PyTorch draws the numbers, on this device")
    args = parser.parse_args()
    TorchValues.device = args.torch
    shape = dict(PRESETS[args.preset])
    shape |= {key: value for key, value in (("layers", args.layers), ("vocab", args.vocab)) if value is not None}
    if shape["vocab"] < 2048:
        parser.error("--vocab: the tokenizer has 2048 ids")
    write_pair(args.out, shape, args.seed, args.shard_mb * 1_000_000 or float("inf"),
               TorchValues if args.torch else NumpyValues)


if __name__ == "__main__":
    main()
