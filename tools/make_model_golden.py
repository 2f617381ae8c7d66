#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden of an architecture: a tiny random model, and what transformers computes with it in float32.

    tools/make_model_golden.py phi3 tests/data/goldens/phi3      (transformers 5.24, torch 2.11; seed 11)

golden.safetensors has input_ids [n], logits [n, vocab] and the 16 greedy tokens after them. A new architecture is a line
of MODELS; sizes are small, odd where they may be, and windows shorter than the text.
"""
import argparse
import pathlib

import torch
import transformers
from safetensors.torch import save_file

COMMON = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
          "pad_token_id": None}
MODELS = {"phi3": ("Phi3", {"sliding_window": 16, "rms_norm_eps": 1e-5})}
TOKENS, GREEDY = 48, 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    stem, fields = MODELS[args.name]
    config = getattr(transformers, stem + "Config")(**COMMON, **fields)
    torch.manual_seed(args.seed)
    model = getattr(transformers, stem + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Wider than trained models, so that attention looks at few positions and errors show.
            weight.normal_(1, 0.2) if "norm" in name else weight.normal_(0, 0.12)
        ids = torch.randint(3, config.vocab_size, (1, TOKENS))
        logits = model(ids).logits[0]
        longer = ids
        for _ in range(GREEDY):  # generate() would end at the end of text
            longer = torch.cat([longer, model(longer).logits[:, -1:].argmax(-1)], 1)
    model.save_pretrained(args.out)
    save_file({"input_ids": ids[0], "logits": logits.contiguous(), "greedy": longer[0, TOKENS:].contiguous()}, args.out / "golden.safetensors")


if __name__ == "__main__":
    main()
