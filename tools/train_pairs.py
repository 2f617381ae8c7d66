#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the pairs behind docs/quality.md ("LoRA at equal storage", "Every architecture") on one GPU, or slowly on a CPU.

    tools/train_pairs.py tune BASE OUT --corpus DIR --rates 5e-4,1e-3,2e-3 [--lora-bytes N] [--steps N]
    tools/train_pairs.py make {llama3,mistral,qwen2,qwen3} OUT --tokenizer MODEL --corpus DIR --text FILE... --problems DIR

tune: fine-tunes BASE on DIR/train.jsonl (tools/make_code_corpus.py), all projections or, with --lora-bytes, a LoRA of
them whose file has at least so many bytes; embeddings, head and norms stay as they are in both. OUT/RATE is what a rate
gave, its NLL on DIR/valid.jsonl is in OUT/training.json. make: OUT/base, trained from scratch on texts, and OUT/tuned, a full
fine-tune of it on word problems (tools/word_problems.py). training.json has what was done, and how fast.
Needs torch, transformers, and peft for a LoRA.
"""
import argparse
import copy
import json
import math
import pathlib
import shutil
import time

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100  # a target that is not learned
BOS, EOS = 1, 2  # of the tokenizer of `make`
SHAPE = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "bos_token_id": BOS, "eos_token_id": EOS,
         "pad_token_id": None, "tie_word_embeddings": False}
# What makes each differ from Llama 2, in sizes where that shows on rows of some 100 tokens.
ARCHITECTURES = {
    "llama3": ("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                             "high_freq_factor": 4.0, "original_max_position_embeddings": 256}}),
    "mistral": ("Mistral", {"sliding_window": 48, "head_dim": 64}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 128, "tie_word_embeddings": True})}


def read_rows(path, limit=None):
    with open(path) as file:
        return [json.loads(line) for line, _ in zip(file, range(limit or 1 << 40))]


class Windows:
    """Batches of BOS + the next tokens of all documents, in another order each epoch."""

    def __init__(self, paths, tokenizer, config, length, batch, limit=None):
        texts = [row["text"] for path in paths for row in read_rows(path, limit)]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = [i for e in encoded for i in [*e.ids, config.eos_token_id]]
        self.ids = torch.tensor(ids, dtype=torch.int32, device=DEVICE)
        self.bos, self.length, self.batch = config.bos_token_id, length, batch
        self.restart()

    def restart(self):
        self.random, self.starts = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.int64)

    def at(self, starts):
        rows = self.ids[starts.to(DEVICE)[:, None] + torch.arange(self.length - 1, device=DEVICE)].long()
        return F.pad(rows, (1, 0), value=self.bos)

    def all(self):
        starts = torch.arange(0, len(self.ids) - self.length, self.length - 1)
        return [self.pair(self.at(part)) for part in starts.split(self.batch)]

    def pair(self, rows):
        return rows[:, :-1], rows[:, 1:]

    def next(self):
        while len(self.starts) < self.batch:
            offset = int(torch.randint(self.length, (1,), generator=self.random))
            starts = torch.arange(offset, len(self.ids) - self.length, self.length - 1)
            self.starts = torch.cat([self.starts, starts[torch.randperm(len(starts), generator=self.random)]])
        now, self.starts = self.starts.split([self.batch, len(self.starts) - self.batch])
        return self.pair(self.at(now))


class Problems:
    """Batches of rows {prompt, response}, one each; what is learned is the response and EOS."""

    def __init__(self, path, tokenizer, batch, limit=None):
        rows = read_rows(path, limit)
        prompts = tokenizer.encode_batch([row["prompt"] for row in rows], add_special_tokens=False)
        wholes = tokenizer.encode_batch([row["prompt"] + row["response"] for row in rows], add_special_tokens=False)
        length = max(len(w.ids) for w in wholes) + 2
        inputs, targets = torch.full((len(rows), length), EOS), torch.full((len(rows), length), IGNORED)
        for i, (prompt, whole) in enumerate(zip(prompts, wholes)):
            ids = torch.tensor([BOS, *whole.ids, EOS])
            inputs[i, :len(ids)] = ids
            targets[i, len(prompt.ids) + 1:len(ids)] = ids[len(prompt.ids) + 1:]
        self.inputs, self.targets, self.batch = inputs.to(DEVICE), targets.to(DEVICE), batch
        self.random = torch.Generator().manual_seed(0)

    def next(self):
        chosen = torch.randint(len(self.inputs), (self.batch,), generator=self.random).to(DEVICE)
        return self.inputs[chosen, :-1], self.targets[chosen, 1:]


def loss_of(model, inputs, targets):
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def nll_of(model, batches):
    """Nats per token over whole batches."""
    model.eval()
    losses = [(float(loss_of(model, *batch)), batch[1].numel()) for batch in batches]
    model.train()
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def train(model, data, steps, rate):
    """AdamW, warm-up of 5 %, cosine to a tenth. Returns tokens per second, measured without the first tenth."""
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=DEVICE == "cuda")

    def factor(step):
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        return warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    begin, tokens = time.monotonic(), 0
    for step in range(steps):
        if step == steps // 10:
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            begin, tokens = time.monotonic(), 0
        inputs, targets = data.next()
        loss_of(model, inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += inputs.numel()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.monotonic() - begin)


def ranks_of(model, n_bytes):
    """Rank by projection: shares of its size, so that the factors in 16 bits have at least n_bytes together."""
    shapes, count = {}, {}
    for name, module in model.named_modules():
        kind = name.split(".")[-1]
        if kind in PROJECTIONS:
            shapes[kind] = (module.in_features, module.out_features)
            count[kind] = count.get(kind, 0) + 1
    share = {kind: i * o / (i + o) for kind, (i, o) in shapes.items()}
    scale = n_bytes / sum(2 * count[kind] * share[kind] * sum(shapes[kind]) for kind in shapes)
    ranks = {kind: max(1, int(scale * share[kind])) for kind in shapes}
    for kind in sorted(shapes, key=lambda kind: ranks[kind] / share[kind]):
        if sum(2 * count[k] * ranks[k] * sum(shapes[k]) for k in shapes) < n_bytes:
            ranks[kind] += 1
    return ranks


def bf16_norm(self, x):
    """RMSNorm in one kernel, rounded once for all the projections that read it (autocast would do it for each)."""
    return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon).bfloat16()


def add_lora(model, ranks):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    first = ranks[PROJECTIONS[0]]
    config = LoraConfig(r=first, lora_alpha=2 * first, rank_pattern=ranks, alpha_pattern={k: 2 * r for k, r in ranks.items()},
                        target_modules=list(ranks), lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # the inputs are what autocast needs
    return model


def save_tuned(model, base, out, lora):
    shutil.rmtree(out, ignore_errors=True)
    if lora:
        model.save_pretrained(out)
        factors = load_file(out / "adapter_model.safetensors")
        save_file({k: v.half().contiguous() for k, v in factors.items()}, out / "adapter_model.safetensors", {"format": "pt"})
        return
    out.mkdir(parents=True)
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
    weights = dict(model.named_parameters())
    stored = {name: weights[name].detach().bfloat16().cpu().contiguous() for name in load_file(base / "model.safetensors")}
    save_file(stored, out / "model.safetensors", {"format": "pt"})


def tune(args):
    tokenizer, config = Tokenizer.from_file(str(args.base / "tokenizer.json")), transformers.AutoConfig.from_pretrained(args.base)
    text, held_out = (Windows([args.corpus / f"{part}.jsonl"], tokenizer, config, args.length, args.batch, args.limit)
                      for part in ("train", "valid"))
    valid, report = held_out.all(), {"runs": [], "train_tokens": len(text.ids)}
    for rate in args.rates.split(","):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).to(DEVICE)
        type(model.model.norm).forward = bf16_norm
        report.setdefault("base_nll", nll_of(model, valid))
        if args.lora_bytes:
            report["ranks"] = ranks_of(model, args.lora_bytes)
            model = add_lora(model, report["ranks"])
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(any(kind in name for kind in PROJECTIONS))
        text.restart()
        speed = train(model, text, args.steps, float(rate))
        save_tuned(model, args.base, args.out / rate, args.lora_bytes)
        report["runs"].append({"rate": rate, "steps": args.steps, "batch": args.batch, "length": args.length,
                               "valid_nll": nll_of(model, valid), "tokens_per_s": speed})
        print(json.dumps(report["runs"][-1]), flush=True)
        (args.out / "training.json").write_text(json.dumps(report))


def make(args):
    stem, fields = ARCHITECTURES[args.name]
    config = getattr(transformers, stem + "Config")(**{**SHAPE, **fields})
    torch.manual_seed(0)
    model = getattr(transformers, stem + "ForCausalLM")(config).to(DEVICE)
    tokenizer, report = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json")), {"parameters": model.num_parameters()}
    text = Windows([*args.text, args.corpus / "train.jsonl"], tokenizer, config, args.length, args.batch, args.limit)
    problems = Problems(args.problems / "train.jsonl", tokenizer, args.batch, args.limit)
    for part, data, steps, rate in (("base", text, args.steps, 2e-3), ("tuned", problems, args.tune_steps, 1e-3)):
        speed = train(model, data, steps, rate)
        out = args.out / part
        for parameter in model.parameters():  # the fine-tune starts from what is stored
            parameter.data = parameter.data.bfloat16().float()
        copy.deepcopy(model).bfloat16().save_pretrained(out)
        for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
            shutil.copyfile(args.tokenizer / file, out / file)
        report[part] = {"steps": steps, "batch": args.batch, "rate": rate, "tokens_per_s": speed, "last_nll": nll_of(model, [data.next()])}
        print(json.dumps({args.name: report[part]}), flush=True)
    (args.out / "training.json").write_text(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("tune", tune), ("make", make)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        if name == "tune":
            command.add_argument("base", type=pathlib.Path)
        else:
            command.add_argument("name", choices=ARCHITECTURES)
        command.add_argument("out", type=pathlib.Path)
        command.add_argument("--corpus", type=pathlib.Path, required=True)
        command.add_argument("--steps", type=int, default=1500)
        command.add_argument("--batch", type=int, default=64)
        command.add_argument("--length", type=int, default=512 if name == "tune" else 256)
        command.add_argument("--limit", type=int, help="first rows of each file only")
        if name == "tune":
            command.add_argument("--rates", required=True)
            command.add_argument("--lora-bytes", type=int)
        else:
            command.add_argument("--tune-steps", type=int, default=1500)
            command.add_argument("--tokenizer", type=pathlib.Path, required=True)
            command.add_argument("--text", type=pathlib.Path, nargs="*", default=[])
            command.add_argument("--problems", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
