#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the base alone with llama.cpp: the same weights, cores and shapes of work.

    benchmarks/baselines/against_llama_cpp.py MODEL [--type bf16|f16|q8_0] [--threads 2] [--rounds 5] [--deltacome build/release/bin/deltacome]

MODEL is a Llama checkpoint in bf16, for example base of tools/make_synthetic_pair.py. Needs `pip install llama-cpp-python
gguf numpy`. A GGUF of the same weights is written beside the checkpoint (once a type). Each round runs llama.cpp and
`deltacome bench` one after another, and the fastest step of all rounds counts, so that ratios hold on a machine that is
disturbed. A ratio above 1 means that deltacome is faster.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import time

import numpy as np

CONTEXT = 128  # tokens in the cache before a step of decode
# What deltacome holds for each type: f16 multiplies f32 inputs in both programs, the others round them.
BASE_DTYPE = {"bf16": "bf16", "f16": "auto", "q8_0": "int8"}


def read_checkpoint(directory):
    """name -> float32 array, one tensor at a time."""
    for path in sorted(directory.glob("*.safetensors")):
        data = np.memmap(path, dtype=np.uint8, mode="r")
        size = struct.unpack("<Q", data[:8].tobytes())[0]
        header = json.loads(data[8 : 8 + size].tobytes())
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            bits = data[8 + size + begin : 8 + size + end].view("<u2").astype(np.uint32)
            yield name, (bits << 16).view(np.float32).reshape(entry["shape"])


def permuted(weight, heads):
    """Rows of q and k in the order of pairs that llama.cpp rotates."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(directory, out, kind):
    import gguf

    config = json.loads((directory / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    types = {"bf16": gguf.GGMLQuantizationType.BF16, "f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    for name, weight in read_checkpoint(directory):
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{layer}.{parts[part]}"
            if parts[part] in ("attn_q", "attn_k"):
                weight = permuted(weight, heads if parts[part] == "attn_q" else kv_heads)
        else:
            target = names[stem]
        if weight.ndim == 1:
            writer.add_tensor(target + ".weight", np.ascontiguousarray(weight))
        else:
            writer.add_tensor(target + ".weight", gguf.quants.quantize(np.ascontiguousarray(weight), types[kind]), raw_dtype=types[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """One model of llama.cpp; steps of any batch."""

    def __init__(self, path, threads, prompt, batch):
        import llama_cpp

        self.api = api = llama_cpp
        api.llama_backend_init()
        self.silent = api.llama_log_callback(lambda *_: None)  # kept alive: llama.cpp calls it
        api.llama_log_set(self.silent, None)
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        options = api.llama_context_default_params()
        options.n_ctx = batch * max(prompt, CONTEXT + 64)  # divided among the sequences
        options.n_batch = options.n_ubatch = max(prompt, CONTEXT)
        options.n_seq_max = batch
        options.n_threads = options.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, options)
        self.batch = api.llama_batch_init(max(prompt, CONTEXT), 0, batch)

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)

    def step(self, rows):
        """Seconds of one decode of rows (position, sequence); logits of each sequence's last row."""
        last = {sequence: i for i, (_, sequence) in enumerate(rows)}
        self.batch.n_tokens = len(rows)
        for i, (position, sequence) in enumerate(rows):
            self.batch.token[i] = 1
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = last[sequence] == i
        start = time.perf_counter()
        if self.api.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")
        self.api.llama_synchronize(self.context)
        return time.perf_counter() - start

    def decode(self, sequences, repeats):
        self.clear()
        for sequence in range(sequences):
            self.step([(i, sequence) for i in range(CONTEXT)])
        return min(self.step([(CONTEXT + n, s) for s in range(sequences)]) for n in range(repeats))

    def prefill(self, tokens, repeats):
        best = float("inf")
        for _ in range(repeats):
            self.clear()
            best = min(best, self.step([(i, 0) for i in range(tokens)]))
        return best


def deltacome(args, what, *options):
    command = [args.deltacome, "bench", what, "--base", str(args.model), "--base-dtype", BASE_DTYPE[args.type], "--delta", "lora",
               "--threads", str(args.threads), "--repeats", str(args.repeats), "--json", *options]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {entry["name"]: entry["ms"] / 1e3 for entry in report["entries"]}, report["read_gb_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--type", choices=BASE_DTYPE, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="steps of a round")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--deltacome", default="build/release/bin/deltacome")
    args = parser.parse_args()
    gguf_path = args.model / f"{args.type}.gguf"
    if not gguf_path.exists():
        write_gguf(args.model, gguf_path, args.type)
    llama = LlamaCpp(gguf_path, args.threads, args.prompt, args.batch)
    ours, theirs, roof = {}, {}, 0.0
    best = lambda table, key, value: table.__setitem__(key, min(value, table.get(key, float("inf"))))
    cases = {f"base, {n} sequence{'s' if n > 1 else ''}": n for n in (1, args.batch)}
    for _ in range(args.rounds):
        for name, n in cases.items():
            best(theirs, name, llama.decode(n, args.repeats))
        best(theirs, f"base, {args.prompt} tokens", llama.prefill(args.prompt, max(1, args.repeats // 3)))
        decode, read = deltacome(args, "decode", "--variants", "1", "--batch", str(args.batch), "--context", str(CONTEXT))
        prefill, _ = deltacome(args, "prefill", "--prompt", str(args.prompt))
        roof = max(roof, read)
        for name, seconds in {**decode, **prefill}.items():
            best(ours, name, seconds)
    print(f"read roof {roof:.1f} GB/s; weights {gguf_path.stat().st_size / 1e9:.3f} GB")
    for name, seconds in theirs.items():
        print(f"{name:24} llama.cpp {1e3 * seconds:9.2f} ms  deltacome {1e3 * ours[name]:9.2f} ms  ratio {seconds / ours[name]:.2f}")


if __name__ == "__main__":
    main()
