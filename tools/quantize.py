#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a model in low precision, in the layouts that users bring.

    tools/quantize.py MODEL OUT --layout gptq|gptq_v2|awq|pack|int8|fp8|fp8-block|nf4|bnb-int8
                      [--bits 4|8] [--group 128] [--asymmetric] [--act-order]
                      [--method rtn|gptq --calib FILE.jsonl]

Projections are quantized, everything else is copied. Codes are the nearest (rtn), or GPTQ's
(arXiv:2210.17323), for which the model runs on calibration text (needs transformers). The packing
is written from the formulas in docs/formats.md and shares nothing with the C++ reader.
OUT/quantized_from.txt has the content hash of MODEL.
"""
import argparse
import hashlib
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# bitsandbytes' table: quantiles of a normal distribution, scaled to [-1, 1], with an exact zero.
NF4 = torch.tensor([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                    0.7229568362236023, 1.0])
AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)  # output of a word's eight that is at place j


class Quantizer:
    """Scale and zero point of groups of a row; codes 0 .. 2^bits - 1 stand for scale * (code - zero)."""

    def __init__(self, bits, asymmetric, scale_dtype):
        self.bits, self.asymmetric, self.scale_dtype = bits, asymmetric, scale_dtype

    def fit(self, w):
        """w [n_out, n] of one group -> scale, zero [n_out]."""
        levels = 2 ** self.bits - 1
        if self.asymmetric:
            low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
            scale = self.round_scale((high - low) / levels)
            zero = (-low / scale).round().clamp(0, levels)
        else:
            scale = self.round_scale(w.abs().amax(1) / (2 ** (self.bits - 1) - 0.5))
            zero = torch.full_like(scale, 2 ** (self.bits - 1))
        return scale, zero

    def round_scale(self, scale):
        return scale.clamp(min=1e-7).to(self.scale_dtype).float()

    def encode(self, w, scale, zero):
        return (w / scale + zero).round().clamp(0, 2 ** self.bits - 1)


def round_to_nearest(w, group, quantizer):
    codes, scales, zeros = [], [], []
    for first in range(0, w.shape[1], group):
        part = w[:, first:first + group]
        scale, zero = quantizer.fit(part)
        codes.append(quantizer.encode(part, scale[:, None], zero[:, None]))
        scales.append(scale)
        zeros.append(zero)
    return torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(zeros, 1), None


def gptq(w, group, quantizer, hessian, act_order):
    """Column by column, the error of each spread over those that follow; scales of a group are fitted when it is
    reached. With act_order the columns with the largest Hessian diagonal come first."""
    n_in = w.shape[1]
    h = hessian.double().clone()
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    order = h.diagonal().argsort(descending=True) if act_order else torch.arange(n_in)
    h = h[order][:, order]
    h += 0.01 * h.diagonal().mean() * torch.eye(n_in, dtype=h.dtype)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    left = w.double()[:, order].clone()
    codes = torch.zeros_like(left)
    scales, zeros = [], []
    for i in range(n_in):
        if i % group == 0:
            scale, zero = quantizer.fit(left[:, i:i + group].float())
            scales.append(scale)
            zeros.append(zero)
        codes[:, i] = quantizer.encode(left[:, i].float(), scales[-1], zeros[-1]).double()
        value = scales[-1].double() * (codes[:, i] - zeros[-1].double())
        error = (left[:, i] - value) / factor[i, i]
        left[:, i + 1:] -= error[:, None] * factor[i, i + 1:]
    groups = torch.empty(n_in, dtype=torch.int32)
    groups[order] = (torch.arange(n_in) // group).int()
    codes = codes[:, order.argsort()]
    return codes.float(), torch.stack(scales, 1), torch.stack(zeros, 1), groups if act_order else None


def to_int32(words):
    """Unsigned 32-bit values in int64 -> int32 with the same bits."""
    return torch.where(words >= 2 ** 31, words - 2 ** 32, words).to(torch.int32).contiguous()


def pack(codes, bits, dim):
    """Neighbours along `dim` into words, the first in the lowest bits; the end is filled with zeros."""
    per_word = 32 // bits
    codes = codes.long().movedim(dim, -1)
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per_word))
    codes = codes.reshape(*codes.shape[:-1], -1, per_word)
    return to_int32((codes << (bits * torch.arange(per_word))).sum(-1).movedim(-1, dim))


def pack_gptq(prefix, coded, options):
    codes, scales, zeros, groups = coded
    bits, n_in = options.bits, codes.shape[1]
    stored = zeros.long() if options.layout == "gptq_v2" else (zeros.long() - 1) & (2 ** bits - 1)
    if groups is None:
        groups = (torch.arange(n_in) // options.group_of(n_in)).int()
    return {prefix + ".qweight": pack(codes.T, bits, 0), prefix + ".qzeros": pack(stored.T, bits, 1),
            prefix + ".scales": scales.T.half().contiguous(), prefix + ".g_idx": groups}


def pack_awq(prefix, coded, options):
    codes, scales, zeros, _ = coded

    def interleaved(values):  # [n, n_out]
        eights = values.reshape(values.shape[0], -1, 8)[:, :, list(AWQ_PLACES)]
        return pack(eights.reshape(values.shape), 4, 1)
    return {prefix + ".qweight": interleaved(codes.T), prefix + ".qzeros": interleaved(zeros.T),
            prefix + ".scales": scales.T.half().contiguous()}


def pack_rows(prefix, coded, options):
    codes, scales, zeros, groups = coded
    out = {prefix + ".weight_packed": pack(codes, options.bits, 1),
           prefix + ".weight_scale": scales.to(options.scale_dtype).contiguous(),
           prefix + ".weight_shape": torch.tensor(codes.shape, dtype=torch.int64)}
    if options.asymmetric:
        out[prefix + ".weight_zero_point"] = pack(zeros, options.bits, 0)
    if groups is not None:
        out[prefix + ".weight_g_idx"] = groups
    return out


def pack_int8(prefix, coded, options):
    codes, scales, zeros, _ = coded
    out = {prefix + ".weight": (codes - 128).to(torch.int8), prefix + ".weight_scale": scales.to(options.scale_dtype)}
    if options.asymmetric:
        out[prefix + ".weight_zero_point"] = (zeros - 128).to(torch.int8)
    return out


def fp8(prefix, w, options):
    """A scale per row, the largest magnitude at 448."""
    scale = (w.abs().amax(1, keepdim=True) / 448).clamp(min=1e-9).to(options.scale_dtype)
    return {prefix + ".weight": (w / scale.float()).to(torch.float8_e4m3fn), prefix + ".weight_scale": scale}


def fp8_block(prefix, w, options, block=128):
    n_out, n_in = w.shape
    padded = torch.nn.functional.pad(w, (0, -n_in % block, 0, -n_out % block))
    blocks = padded.reshape(padded.shape[0] // block, block, -1, block)
    scale = (blocks.abs().amax((1, 3)) / 448).clamp(min=1e-9).to(options.scale_dtype)
    whole = scale.float().repeat_interleave(block, 0).repeat_interleave(block, 1)[:n_out, :n_in]
    return {prefix + ".weight": (w / whole).to(torch.float8_e4m3fn), prefix + ".weight_scale_inv": scale}


def double_quantized(absmax, block=256):
    """absmax as bytes of a table, with a scale for `block` of them, around their mean."""
    offset = absmax.mean()
    table = torch.cat([torch.linspace(-1, 1, 255), torch.zeros(1)]).sort().values
    around = absmax - offset
    padded = torch.nn.functional.pad(around, (0, -len(around) % block)).reshape(-1, block)
    nested = padded.abs().amax(1)
    places = (around / nested.repeat_interleave(block)[:len(around)].clamp(min=1e-12)).contiguous()
    codes = (places[:, None] - table[None]).abs().argmin(1).to(torch.uint8)
    return codes, table, nested, offset


def nf4(prefix, w, options, block=64):
    flat = w.reshape(-1, block)
    absmax = flat.abs().amax(1)
    codes = (flat / absmax.clamp(min=1e-12)[:, None])[:, :, None].sub(NF4).abs().argmin(2).reshape(-1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(w.shape)}
    name = prefix + ".weight"
    out = {name: (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None], name + ".quant_map": NF4.clone()}
    if options.double:
        stored, table, nested, offset = double_quantized(absmax)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        out |= {name + ".absmax": stored, name + ".nested_absmax": nested, name + ".nested_quant_map": table}
    else:
        out[name + ".absmax"] = absmax
    out[name + ".quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return out


def bnb_int8(prefix, w, options):
    largest = w.abs().amax(1)
    return {prefix + ".weight": (w * 127 / largest[:, None]).round().to(torch.int8), prefix + ".SCB": largest,
            prefix + ".weight_format": torch.tensor(0, dtype=torch.uint8)}


def quantization_config(o):
    """What transformers expects in config.json."""
    if o.layout in ("gptq", "gptq_v2"):
        return {"quant_method": "gptq", "bits": o.bits, "group_size": o.group, "desc_act": o.act_order,
                "sym": not o.asymmetric, "checkpoint_format": o.layout, "damp_percent": 0.01}
    if o.layout == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": o.group, "zero_point": True, "version": "gemm"}
    if o.layout == "fp8-block":
        return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    if o.layout == "nf4":
        return {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
                "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": o.double,
                "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8"}
    if o.layout == "bnb-int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False,
                "llm_int8_threshold": 6.0}
    whole = o.group < 0 or o.layout in ("int8", "fp8")
    weights = {"num_bits": o.bits, "type": "float" if o.layout == "fp8" else "int", "symmetric": not o.asymmetric,
               "strategy": "channel" if whole else "group", "dynamic": False,
               "group_size": None if whole else o.group, "actorder": "group" if o.act_order else None}
    names = {"pack": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None,
             "format": names[o.layout]}
    return {"quant_method": "compressed-tensors", "format": names[o.layout], "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def content_hash(tensors):
    """Of deltacome: the SHA-256 of a line for each tensor."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    lines = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest = hashlib.sha256(t.view(torch.uint8).numpy().tobytes()).hexdigest()
        lines.update(f"{name}\t{names[t.dtype]}\t{list(t.shape)}\t{digest}\n".encode())
    return lines.hexdigest()


def hessians(model_dir, tensors, calib, rows):
    """X X^T of every projection's inputs, from transformers' forward pass in float32."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    sums = {}

    def hook(name):
        def add(_, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x
        return add
    for name, module in model.named_modules():
        if name.endswith(PROJECTIONS):
            module.register_forward_pre_hook(hook(name))
    texts = [json.loads(line)["text"] for line in calib.read_text().splitlines()[:rows]]
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([tokenizer.encode(text).ids[:512]]))
    return sums


def quantize_matrix(prefix, w, hessian, o):
    """Tensors of one projection."""
    w = w.float()
    whole = {"fp8": fp8, "fp8-block": fp8_block, "nf4": nf4, "bnb-int8": bnb_int8}
    if o.layout in whole:
        return whole[o.layout](prefix, w, o)
    quantizer = Quantizer(o.bits, o.asymmetric, o.scale_dtype)
    group = o.group_of(w.shape[1])
    if o.method == "gptq":
        coded = gptq(w, group, quantizer, hessian, o.act_order)
    else:
        coded = round_to_nearest(w, group, quantizer)
    pack_layout = {"gptq": pack_gptq, "gptq_v2": pack_gptq, "awq": pack_awq, "pack": pack_rows, "int8": pack_int8}
    return pack_layout[o.layout](prefix, coded, o)


class Options(argparse.Namespace):
    """Of the command line, made to fit the layout."""

    def settle(self):
        if self.layout in ("int8", "fp8"):
            self.bits, self.group = 8, -1
        if self.layout == "awq":
            self.bits, self.asymmetric = 4, True
        if self.act_order and (self.method != "gptq" or self.layout not in ("gptq", "gptq_v2", "pack")):
            raise SystemExit("--act-order needs --method gptq and a layout with g_idx: gptq, gptq_v2, pack")
        if self.method == "gptq" and self.calib is None:
            raise SystemExit("--method gptq needs --calib")
        f16 = self.layout in ("gptq", "gptq_v2", "awq")
        self.scale_dtype = torch.float16 if f16 else torch.bfloat16

    def group_of(self, n_in):
        return n_in if self.group < 0 else self.group


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    layouts = ("gptq", "gptq_v2", "awq", "pack", "int8", "fp8", "fp8-block", "nf4", "bnb-int8")
    parser.add_argument("--layout", required=True, choices=layouts)
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale, -1: a row's")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--act-order", action="store_true")
    parser.add_argument("--double", action="store_true", help="nf4: quantized scales")
    parser.add_argument("--method", default="rtn", choices=("rtn", "gptq"))
    parser.add_argument("--calib", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=64)
    o = parser.parse_args(namespace=Options())
    o.settle()
    tensors = {}
    for path in sorted(o.model.glob("*.safetensors")):
        tensors |= load_file(path)
    sums = hessians(o.model, tensors, o.calib, o.rows) if o.method == "gptq" else {}
    out = {}
    for name, tensor in tensors.items():
        prefix = name.removesuffix(".weight")
        if name.endswith(".weight") and prefix.endswith(PROJECTIONS):
            out |= quantize_matrix(prefix, tensor, sums.get(prefix), o)
        else:
            out[name] = tensor
    o.out.mkdir(parents=True)
    for file in o.model.iterdir():
        if file.is_file() and not file.name.startswith("model.safetensors"):
            shutil.copyfile(file, o.out / file.name)
    config = json.loads((o.model / "config.json").read_text())
    config["quantization_config"] = quantization_config(o)
    (o.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in out.items()}, o.out / "model.safetensors", metadata={"format": "pt"})
    (o.out / "quantized_from.txt").write_text(content_hash(tensors) + "\n")


if __name__ == "__main__":
    main()
