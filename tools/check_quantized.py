#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that weights in low precision mean here what they mean to transformers.

    tools/check_quantized.py QUANTIZED [QUANTIZED ...] [--deltacome build/release/bin/deltacome]

QUANTIZED is a checkpoint of tools/quantize.py or of anybody else in the layout of compressed-tensors, bitsandbytes' nf4,
GPTQ or AWQ. `merge` writes its values; transformers' logits of both, in bf16, must be equal. For nf4, which bitsandbytes
multiplies in another order, the dequantized weights are compared instead, and so they are for GPTQ (gptqmodel's
TorchLinear) and AWQ (autoawq's dequantize_gemm), in the checkpoint's type. Packed zero points cannot be compared:
compressed-tensors 0.20 does not load them. Needs torch, transformers and the library of the layout. Exits with 1 if something differs.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

IDS = torch.arange(3, 259, 4)[None]


def load(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()


def weights_differ(quantized, plain):
    """Names of 4-bit projections whose values differ."""
    import bitsandbytes.functional as bnb

    plain = dict(plain.named_parameters())
    found = []
    for name, weight in quantized.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None and not torch.equal(bnb.dequantize_4bit(weight.data, state), plain[name]):
            found.append(name)
    return found


def gptq_values(config, stored, prefix):
    """W [n_out, n_in] as gptqmodel dequantizes it, in float32."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    n_in, n_out = stored[f"{prefix}.g_idx"].numel(), stored[f"{prefix}.scales"].shape[1]
    module = TorchLinear(bits=config["bits"], group_size=config["group_size"], sym=config["sym"], desc_act=config["desc_act"],
                         in_features=n_in, out_features=n_out, bias=False)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        getattr(module, name).data = stored[f"{prefix}.{name}"].clone()
    if config.get("checkpoint_format", "gptq") == "gptq":
        convert_gptq_v1_to_v2_format_module(module, config["bits"], torch.int32)
    module.scales.data = module.scales.data.float()  # so that values are rounded once, to the checkpoint's type
    return module.dequantize_weight().T


def awq_values(config, stored, prefix):
    from awq.utils.packing_utils import dequantize_gemm

    codes, zeros, scales = (stored[f"{prefix}.{name}"] for name in ("qweight", "qzeros", "scales"))
    return dequantize_gemm(codes, zeros, scales.float(), config["bits"], config["group_size"]).T


def library_differs(config, quantized, plain):
    """Names of projections whose values are not those of the library of GPTQ or AWQ."""
    values = gptq_values if config["quant_method"] == "gptq" else awq_values
    stored, plain = load_file(quantized / "model.safetensors"), load_file(plain / "model.safetensors")
    prefixes = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    return [p for p in prefixes if not torch.equal(values(config, stored, p).to(plain[f"{p}.weight"].dtype), plain[f"{p}.weight"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantized", nargs="+", type=pathlib.Path)
    parser.add_argument("--deltacome", default="build/release/bin/deltacome")
    args = parser.parse_args()
    failed = False
    for directory in args.quantized:
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / "plain"
            subprocess.run([args.deltacome, "merge", "--base", directory, "--delta", directory, "--out", out], check=True,
                           stdout=subprocess.DEVNULL)
            config = json.loads((directory / "config.json").read_text())["quantization_config"]
            if config["quant_method"] in ("gptq", "awq"):
                differ = library_differs(config, directory, out)
                failed |= bool(differ)
                print(f"{'FAILED' if differ else 'ok    '}  {directory.name}: values of {len(differ)} projections differ")
                continue
            theirs, ours = load(directory), load(out)
        method = theirs.config.quantization_config.quant_method
        if getattr(method, "value", method) == "bitsandbytes":
            differ = weights_differ(theirs, ours)
            failed |= bool(differ)
            print(f"{'FAILED' if differ else 'ok    '}  {directory.name}: values of {len(differ)} projections differ")
            continue
        with torch.no_grad():
            a, b = (model(IDS).logits.float() for model in (theirs, ours))
        failed |= not torch.equal(a, b)
        print(f"{'ok    ' if torch.equal(a, b) else 'FAILED'}  {directory.name}: logits differ by {float((a - b).abs().max()):.2g}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
