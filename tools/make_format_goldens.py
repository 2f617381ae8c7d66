#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints of every format that is read, each with the values that it stands for.

    tools/make_format_goldens.py          (torch 2.15, safetensors 0.8; seed 7)

Writes tests/data/formats. A directory NAME has config.json and model.safetensors as tools/quantize.py
packs them, and expected.safetensors: the values of each weight in float32, unpacked here word by
word from the stored tensors by the formula of the format, in Python integers. torch.bin is what
torch.save writes, with torch.safetensors as the same tensors.
"""
import json
import pathlib
import shutil
from collections import OrderedDict

import torch
from safetensors.torch import save_file

import quantize

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "formats"
N_OUT, N_IN = 8, 256


def options(layout, **changes):
    o = quantize.Options(layout=layout, bits=4, group=128, asymmetric=False, act_order=False, double=False,
                         method="rtn", calib=None, rows=0)
    vars(o).update(changes)
    o.settle()
    return o


def field(words, i, bits):
    """Code i of int32 words, lowest bits first."""
    per_word = 32 // bits
    return ((int(words[i // per_word]) & 0xffffffff) >> (bits * (i % per_word))) & (2 ** bits - 1)


def values_gptq(t, o, p):
    q, z, s, g = (t[f"{p}.{k}"] for k in ("qweight", "qzeros", "scales", "g_idx"))
    w = torch.empty(N_OUT, N_IN)
    for i in range(N_IN):
        group = int(g[i])
        for c in range(N_OUT):
            zero = field(z[group], c, o.bits)
            if o.layout == "gptq":
                zero = (zero + 1) % 2 ** o.bits
            w[c, i] = float(s[group, c]) * (field(q[:, c], i, o.bits) - zero)
    return w


def values_awq(t, o, p):
    q, z, s = (t[f"{p}.{k}"] for k in ("qweight", "qzeros", "scales"))
    place = [quantize.AWQ_PLACES.index(c) for c in range(8)]  # of output c in its word
    w = torch.empty(N_OUT, N_IN)
    for i in range(N_IN):
        for c in range(N_OUT):
            at = c // 8 * 8 + place[c % 8]
            w[c, i] = float(s[i // o.group, c]) * (field(q[i], at, 4) - field(z[i // o.group], at, 4))
    return w


def values_pack(t, o, p):
    q, s = t[f"{p}.weight_packed"], t[f"{p}.weight_scale"]
    zeros, groups = t.get(f"{p}.weight_zero_point"), t.get(f"{p}.weight_g_idx")
    half, w = 2 ** (o.bits - 1), torch.empty(N_OUT, N_IN)
    for c in range(N_OUT):
        for i in range(N_IN):
            group = int(groups[i]) if groups is not None else i // o.group_of(N_IN)
            zero = 0 if zeros is None else field(zeros[:, group], c, o.bits) - half
            w[c, i] = float(s[c, group]) * ((field(q[c], i, o.bits) - half) - zero)
    return w


def values_int8(t, o, p):
    zero = t.get(f"{p}.weight_zero_point", torch.zeros(N_OUT, 1)).float()
    return (t[f"{p}.weight"].float() - zero) * t[f"{p}.weight_scale"].float()


def values_fp8(t, o, p):
    return t[f"{p}.weight"].float() * t[f"{p}.weight_scale"].float()


def values_block(t, o, p):
    s = t[f"{p}.weight_scale_inv"].float()
    return t[f"{p}.weight"].float() * s.repeat_interleave(128, 0)[:N_OUT].repeat_interleave(128, 1)[:, :N_IN]


def values_nf4(t, o, p):
    name = p + ".weight"
    absmax = t[name + ".absmax"]
    if o.double:
        state = json.loads(bytes(t[name + ".quant_state.bitsandbytes__nf4"].tolist()))
        nested = t[name + ".nested_absmax"].repeat_interleave(256)[:len(absmax)]
        absmax = t[name + ".nested_quant_map"][absmax.long()] * nested + torch.tensor(state["nested_offset"])
    table, bytes_ = t[name + ".quant_map"], t[name].flatten()
    w = torch.empty(N_OUT * N_IN)
    for i in range(N_OUT * N_IN):
        byte = int(bytes_[i // 2])
        w[i] = table[byte >> 4 if i % 2 == 0 else byte & 15] * absmax[i // 64]
    return w.reshape(N_OUT, N_IN)


def values_bnb_int8(t, o, p):
    return t[f"{p}.weight"].float() * (t[f"{p}.SCB"] / 127)[:, None]


CASES = {
    "gptq": (options("gptq"), values_gptq),
    "gptq-asymmetric-g64": (options("gptq", asymmetric=True, group=64), values_gptq),
    "gptq-act-order": (options("gptq", asymmetric=True, act_order=True, method="gptq", calib=True), values_gptq),
    "gptq-8-bits-rows": (options("gptq", bits=8, group=-1), values_gptq),
    "gptq-v2": (options("gptq_v2", asymmetric=True), values_gptq),
    "awq": (options("awq"), values_awq),
    "pack-4": (options("pack"), values_pack),
    "pack-4-asymmetric": (options("pack", asymmetric=True), values_pack),
    "pack-8-rows": (options("pack", bits=8, group=-1), values_pack),
    "int8": (options("int8"), values_int8),
    "fp8": (options("fp8"), values_fp8),
    "fp8-block": (options("fp8-block"), values_block),
    "nf4": (options("nf4"), values_nf4),
    "nf4-double": (options("nf4", double=True), values_nf4),
    "bnb-int8": (options("bnb-int8"), values_bnb_int8),
}


def make_case(name, o, values_of, generator):
    prefix = "model.layers.0.mlp.up_proj"
    w = torch.randn(N_OUT, N_IN, generator=generator) * 0.02
    x = torch.randn(512, N_IN, generator=generator) * torch.rand(N_IN, generator=generator)
    tensors = quantize.quantize_matrix(prefix, w, (x.T @ x).double(), o)
    expected = values_of(tensors, o, prefix)
    error = float((expected - w).norm() / w.norm())
    assert error < 0.2, (name, error)
    directory = OUT / name
    directory.mkdir()
    config = {"dtype": "bfloat16" if o.scale_dtype == torch.bfloat16 else "float16",
              "quantization_config": quantize.quantization_config(o)}
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "model.safetensors")
    save_file({prefix + ".weight": expected}, directory / "expected.safetensors")
    print(f"{name}: relative error {error:.4f}")


def make_torch_file(generator):
    base = torch.randn(6, 5, generator=generator)
    tensors = OrderedDict(f32=base, bf16=torch.randn(3, generator=generator).bfloat16(),
                          f16=torch.randn(2, 2, 2, generator=generator).half(), f64=torch.tensor(2.5).double(),
                          i64=torch.arange(-2, 3), i32=torch.arange(4).int(), i8=torch.tensor([-3, 3]).char(),
                          u8=torch.tensor([7, 200]).byte(), empty=torch.zeros(0, 3),
                          parameter=torch.nn.Parameter(torch.ones(2)))
    plain = {k: v.detach().clone() for k, v in tensors.items()}
    views = {"transposed": base.T, "shared": base[2:4], "strided": base[::2, 1:4]}  # of one storage
    plain |= {k: v.contiguous().clone() for k, v in views.items()}
    torch.save(OrderedDict(tensors, **views), OUT / "torch.bin")
    torch.save(dict(tensors, **views), OUT / "torch-protocol-4.bin", pickle_protocol=4)
    save_file(plain, OUT / "torch.safetensors")


def main():
    generator = torch.Generator().manual_seed(7)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for name, (o, values_of) in CASES.items():
        make_case(name, o, values_of, generator)
    make_torch_file(generator)


if __name__ == "__main__":
    main()
