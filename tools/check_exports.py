#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what deltacome writes against the programs that it is written for: transformers, peft, llama.cpp.

    tools/check_exports.py BASE DELTA [--prompts FILE] [--image FILE] [--rank 16] [--type f32] [--only NAME]
                           [--deltacome build/release/bin/deltacome]

BASE is a checkpoint, DELTA an archive or fine-tune of it; "-" exports BASE alone (a model without tokenizer takes token ids).
A DELTA that sees pictures has the check vision alone. Exits with 1 if a check fails. Needs
`pip install torch transformers peft llama-cpp-python pillow torchvision numpy`.

merge    transformers' float32 logits of a sharded checkpoint equal those of an unsharded one, and greedy tokens deltacome's.
gguf     llama.cpp gives the greedy tokens that deltacome gives on base + delta, and the same ids for each prompt; with q8_0 up to
         where two tokens are as likely.
peft     peft's logits of base + adapter equal transformers' of the merged adapter.
adapter  the same for an adapter that peft writes: rank and alpha patterns, rsLoRA, embeddings, head and norm saved whole.
vision   transformers' greedy tokens for a picture are deltacome's, and merging a checkpoint gives its logits.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PROMPTS = ["### Instruction:\nTom has 12 apples. Tom buys 7 apples. How many apples does Tom have now?\n\n### Response:\n",
           "The history of the city", "def add(a, b):\n    return", "1 2 3 4 5"]
IDS = [[1, 17, 250, 33, 8], [4, 5, 6, 7, 299], [120, 121, 7]]  # for models without a tokenizer


class Check:
    def __init__(self, args, scratch):
        self.args, self.scratch, self.failed = args, scratch, False
        self.delta = [] if args.delta == "-" else ["--delta", args.delta]
        self.prompts = json.loads(pathlib.Path(args.prompts).read_text()) if args.prompts else PROMPTS

    def run(self, *options):
        done = subprocess.run([self.args.deltacome, *map(str, options)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return done.stdout

    def expect(self, holds, what):
        print(("ok      " if holds else "FAILED  ") + what)
        self.failed |= not holds

    def expect_near(self, what, tokenizer, theirs, ours, share):
        """Logits of both for every prompt, within a share of the deviation of theirs."""
        import torch

        for prompt in self.prompts:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                a, b = theirs(ids).logits, ours(ids).logits
            error = float((a - b).abs().max())
            self.expect(error < share * float(a.std()), f"{what}: logits within {error:.2g} (their deviation {float(a.std()):.2g})")

    def merged(self, name, *options):
        out = self.scratch / name
        if not self.delta:
            return pathlib.Path(self.args.base)
        self.run("merge", "--base", self.args.base, *self.delta, "--out", out, *options)
        return out

    def ours(self, prompt):
        """Greedy tokens of base + delta, the delta packed; of a fine-tune that is a checkpoint, its own."""
        whole = self.delta and (pathlib.Path(self.args.delta) / "config.json").exists() and not (
            pathlib.Path(self.args.delta) / "delta_config.json").exists()
        model = ["--model", self.args.delta] if whole else ["--base", self.args.base, *self.delta]
        return json.loads(self.run("generate", *model, "--prompt", prompt,
                                   "--max-tokens", self.args.tokens, "--json"))["token_ids"]

    def has_tokenizer(self):
        return (pathlib.Path(self.args.base) / "tokenizer.json").exists()

    def merge(self):
        import torch
        import transformers

        whole, sharded = self.merged("whole"), self.merged("sharded", "--max-shard-size", "1MB")
        models = [transformers.AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32).eval() for d in (whole, sharded)]
        tokenizer = transformers.AutoTokenizer.from_pretrained(sharded)
        for prompt in self.prompts:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                a, b = (m(ids).logits for m in models)
                tokens = models[1].generate(ids, max_new_tokens=self.args.tokens, do_sample=False)[0, ids.shape[1]:].tolist()
            ours = json.loads(self.run("generate", "--model", sharded, "--prompt", prompt, "--max-tokens", self.args.tokens,
                                       "--json"))["token_ids"]
            stop = models[1].generation_config.eos_token_id
            stops = stop if isinstance(stop, list) else [stop]
            self.expect(torch.equal(a, b), f"merge: equal logits of shards, {prompt[:30]!r}")
            self.expect([t for t in tokens if t not in stops] == [t for t in ours if t not in stops],
                        f"merge: transformers' {len(tokens)} greedy tokens are deltacome's")

    def gguf(self):
        import llama_cpp
        import torch
        import transformers

        out = self.scratch / "model.gguf"
        self.run("export", "--to", "gguf", "--base", self.args.base, *self.delta, "--type", self.args.type, "--out", out)
        llama = llama_cpp.Llama(str(out), n_ctx=self.args.context, n_threads=2, n_gpu_layers=0, verbose=False, logits_all=False)

        def greedy(ids, n, stops=()):
            llama.reset()
            tokens = []
            for token in llama.generate(list(ids), temp=0.0, top_k=1, repeat_penalty=1.0):
                if token in stops or len(tokens) == n:
                    break
                tokens.append(token)
            return tokens

        directory = self.merged("for-gguf")
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        stop = model.generation_config.eos_token_id
        stops = [] if stop is None else stop if isinstance(stop, list) else [stop]
        if not self.has_tokenizer():
            for ids in IDS:
                theirs = greedy(ids, self.args.tokens, stops)
                with torch.no_grad():
                    want = model.generate(torch.tensor([ids]), max_new_tokens=self.args.tokens, do_sample=False)[0, len(ids):].tolist()
                want = [t for t in want if t not in stops]
                self.expect(theirs == want, f"gguf: {len(want)} greedy tokens of {ids}")
            return
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        for prompt in self.prompts:
            ids = tokenizer(prompt).input_ids
            theirs = llama.tokenize(prompt.encode(), add_bos=True, special=True)
            self.expect(theirs == ids, f"gguf: token ids of {prompt[:30]!r}")
            want = [t for t in self.ours(prompt) if t not in stops]
            got = greedy(ids, self.args.tokens, stops)
            same = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            if got == want or self.args.type != "q8_0":
                self.expect(got == want, f"gguf: {len(want)} greedy tokens of {prompt[:30]!r}")
            else:  # llama.cpp rounds weights and inputs to 8 bits: where it differs, both tokens are as likely
                with torch.no_grad():
                    logits = model(torch.tensor([ids + want[:same]])).logits[0, -1]
                ends = [(tokens + list(stops))[same] for tokens in (want, got)]
                gap = float(logits[ends[0]] - logits[ends[1]]) / float(logits.std())
                self.expect(gap < 0.1, f"gguf: {same} of {len(want)} greedy tokens of {prompt[:30]!r}, then two whose logits "
                                       f"differ by {gap:.2g} deviations")
            if got != want:
                print("   ", got, "\n   ", want)

    def peft(self):
        import peft
        import torch
        import transformers

        out = self.scratch / "lora"
        self.run("export", "--to", "peft", "--base", self.args.base, *self.delta, "--rank", self.args.rank, "--out", out)
        merged = self.scratch / "lora-merged"
        self.run("merge", "--base", self.args.base, "--delta", out, "--out", merged, "--dtype", "f32")
        base = transformers.AutoModelForCausalLM.from_pretrained(self.args.base, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.args.base)
        adapted = peft.PeftModel.from_pretrained(base, out).eval()
        ours = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        self.expect_near("peft", tokenizer, adapted, ours, 0.02)

    def adapter(self):
        import peft
        import torch
        import transformers

        base = transformers.AutoModelForCausalLM.from_pretrained(self.args.base, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.args.base)
        saved = ["embed_tokens", "norm", *(["lm_head"] if not base.config.tie_word_embeddings else [])]
        tied = {"ensure_weight_tying": True} if base.config.tie_word_embeddings else {}
        config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "down_proj", "up_proj"],
                                 rank_pattern={"down_proj": 3}, alpha_pattern={r"layers\.1\..*up_proj": 2},
                                 modules_to_save=saved, task_type="CAUSAL_LM", **tied)
        adapted = peft.get_peft_model(base, config)
        torch.manual_seed(3)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:  # values that fp16 keeps
                    weight.copy_((0.05 * torch.randn_like(weight)).half().float())
                elif "modules_to_save" in name:
                    weight.mul_(1 + 0.1 * torch.randn_like(weight))
        out, merged = self.scratch / "peft-wrote", self.scratch / "peft-wrote-merged"
        adapted.eval().save_pretrained(out)
        self.run("merge", "--base", self.args.base, "--delta", out, "--out", merged, "--dtype", "f32")
        ours = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        self.expect_near("adapter", tokenizer, adapted, ours, 0.01)

    def vision(self):
        import PIL.Image
        import torch
        import transformers

        merged = self.merged("vision", "--max-shard-size", "1MB")
        model = transformers.AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).eval()
        processor = transformers.AutoProcessor.from_pretrained(merged)
        prompt = "### Instruction:\n<image>\nWhat is in the picture?\n\n### Response:\n"
        inputs = processor(images=PIL.Image.open(self.args.image).convert("RGB"), text=prompt, return_tensors="pt")
        stop = model.generation_config.eos_token_id
        stops = stop if isinstance(stop, list) else [stop]
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=self.args.tokens, do_sample=False)[0, inputs.input_ids.shape[1]:].tolist()
            logits = model(**inputs).logits
        ours = json.loads(self.run("generate", "--model", merged, "--prompt", prompt, "--image", self.args.image, "--max-tokens",
                                   self.args.tokens, "--json"))["token_ids"]
        self.expect([t for t in tokens if t not in stops] == [t for t in ours if t not in stops],
                    f"vision: transformers' {len(tokens)} greedy tokens are deltacome's")
        if (pathlib.Path(self.args.delta) / "model.safetensors").exists():
            own = transformers.AutoModelForImageTextToText.from_pretrained(self.args.delta, dtype=torch.float32).eval()
            with torch.no_grad():
                self.expect(torch.equal(logits, own(**inputs).logits), "vision: a merged checkpoint has its fine-tune's logits")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("delta")
    parser.add_argument("--prompts", help="JSON list of texts")
    parser.add_argument("--image", default="tests/data/images/grey.jpg", help="of the check vision")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--type", default="f32", help="of the GGUF file")
    parser.add_argument("--only", choices=["merge", "gguf", "peft", "adapter", "vision"])
    parser.add_argument("--deltacome", default="build/release/bin/deltacome")
    args = parser.parse_args()
    np.seterr(all="raise")
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(args, pathlib.Path(scratch))
        sees = args.delta != "-" and "vision_config" in (pathlib.Path(args.delta) / "config.json").read_text()
        for name in [args.only] if args.only else ["vision"] if sees else ["merge", "gguf", "peft", "adapter"]:
            getattr(check, name)()
    sys.exit(check.failed)


if __name__ == "__main__":
    main()
