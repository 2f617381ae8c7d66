// SPDX-License-Identifier: Apache-2.0
// Random models and archives as files, for measurements that read them from disk.
#include <fmt/format.h>

#include <string>
#include <utility>

#include "bench/synthetic.h"
#include "core/check.h"
#include "core/thread_pool.h"
#include "deltacome/bench.h"
#include "io/archive.h"
#include "io/files.h"

namespace deltacome {
namespace {

std::string config_json(const ModelConfig& c) {
  const auto text = [](const std::string& v) { return fmt::format("\"{}\"", v); };
  const std::pair<const char*, std::string> fields[] = {
      {"architectures", fmt::format("[{}]", text(c.architecture))},
      {"model_type", text(c.model_type)},
      {"hidden_act", text("silu")},
      {"hidden_size", std::to_string(c.hidden_size)},
      {"intermediate_size", std::to_string(c.intermediate_size)},
      {"num_hidden_layers", std::to_string(c.n_layers)},
      {"num_attention_heads", std::to_string(c.n_heads)},
      {"num_key_value_heads", std::to_string(c.n_kv_heads)},
      {"head_dim", std::to_string(c.head_dim)},
      {"vocab_size", std::to_string(c.vocab_size)},
      {"max_position_embeddings", std::to_string(c.max_positions)},
      {"rms_norm_eps", fmt::format("{}", c.rms_norm_eps)},
      {"rope_theta", fmt::format("{}", c.rope.theta)},
      {"tie_word_embeddings", c.tied_embeddings ? "true" : "false"},
      {"torch_dtype", text("bfloat16")}};
  std::string out;
  for (const auto& [name, value] : fields)
    out += fmt::format("{}\n  \"{}\": {}", out.empty() ? "{" : ",", name, value);
  return out + "\n}\n";
}

void write_model(const ModelConfig& config, const Checkpoint& checkpoint,
                 const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory);
  write_file_atomically(directory / "config.json", config_json(config));
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : checkpoint.tensors())
    specs.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(directory / "model.safetensors", specs, {{"format", "pt"}});
  for (const auto& [_, tensor] : checkpoint.tensors()) writer.append(tensor.bytes);
  writer.finish();
}

void write_delta(const BenchOptions& options, const ModelConfig& config, const std::string& hash,
                 uint64_t seed, const std::filesystem::path& base,
                 const std::filesystem::path& directory) {
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  ArchiveConfig archive;
  archive.created_by = "deltacome bench make";
  archive.method = options.delta;
  archive.architecture = config.architecture;
  archive.base_name = base.filename();
  archive.base_hash = hash;
  archive.finetuned_name = directory.filename();
  archive.finetuned_hash = std::string(64, '0');
  archive.requested_bits = options.bits;
  for (const ExpectedTensor& tensor : expected) {
    archive.finetuned_parameters += element_count(tensor.shape);
    if (tensor.kind == ExpectedTensor::Kind::kProjection)
      archive.projection_weights += element_count(tensor.shape);
  }
  ArchiveWriter writer(archive);
  make_synthetic_delta(
      config,
      {.kind = options.delta, .bits = options.bits, .vocabulary = options.vocabulary, .seed = seed},
      [&](int slot, const MatrixFormat& format, const HostTensor& blob) {
        writer.add(CodedTensor{expected[static_cast<size_t>(slot)].name,
                               format,
                               {blob.bytes.begin(), blob.bytes.end()},
                               {}});
      });
  writer.write(directory, base);
}

}  // namespace

void write_synthetic(const BenchOptions& options, int64_t n_models,
                     const std::filesystem::path& out) {
  const ModelConfig config = synthetic_config(options.shape, options.n_layers, options.vocab_size);
  if (std::filesystem::exists(out) && !std::filesystem::is_empty(out))
    fail(ErrorCode::kInvalidArgument, "{} exists and is not empty", out.string());
  std::string hash;
  {
    const Checkpoint base = synthetic_checkpoint(config, 1, options.n_threads);
    write_model(config, base, out / "base");
    if (options.n_variants > 0) hash = base.content_hash();
  }
  ThreadPool threads(options.n_threads);
  threads.parallel_for(options.n_variants, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      write_delta(options, config, hash, static_cast<uint64_t>(i + 1), out / "base",
                  out / fmt::format("delta{}", i));
    }
  });
  for (int64_t i = 0; i < n_models; ++i) {
    write_model(config,
                synthetic_checkpoint(config, static_cast<uint64_t>(i + 2), options.n_threads),
                out / fmt::format("model{}", i));
  }
}

}  // namespace deltacome
