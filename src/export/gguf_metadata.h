// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "io/model_config.h"

namespace deltacome {

/// llama.cpp's name for an architecture; "llama" also stands for Mistral.
std::string gguf_architecture(const ModelConfig& config);

/// What llama.cpp calls a tensor ("blk.0.attn_q.weight").
std::string gguf_tensor_name(const std::string& name);

/// Whether rows of a tensor go from the order of Hugging Face (rotated pairs half a head apart) to
/// llama.cpp's (pairs next to each other).
bool is_permuted(const ModelConfig& config, const std::string& name);

/// Divisors of the rotation's frequencies [head_dim / 2] for Llama 3's scaling; empty for others.
std::vector<float> rope_divisors(const ModelConfig& config);

/// Adds what describes the model. Throws kUnsupported for what llama.cpp's architecture cannot say.
/// Returns notes on what it computes differently.
std::vector<std::string> add_model_metadata(GgufWriter& writer, const ModelConfig& config);

/// Adds tokenizer and chat template of a directory, or says that there is no tokenizer.
std::vector<std::string> add_text_metadata(GgufWriter& writer, const ModelConfig& config,
                                           const std::filesystem::path& directory);

}  // namespace deltacome
