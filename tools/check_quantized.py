#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that weights in low precision mean here what they mean to transformers.

    tools/check_quantized.py QUANTIZED [QUANTIZED ...] [--deltacome build/release/bin/deltacome]

QUANTIZED is a checkpoint of tools/quantize.py or of anybody else in compressed-tensors' or bitsandbytes' nf4 layout.
`merge` writes its values; transformers' logits of both, in bf16, must be equal. For nf4, which bitsandbytes multiplies
in another order, the dequantized weights are compared instead. Packed zero points cannot be compared: compressed-tensors
0.20 does not load them. Needs torch, transformers, compressed-tensors, bitsandbytes. Exits with 1 if something differs.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

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
