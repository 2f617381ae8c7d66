// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "deltacome/export.h"
#include "export/gguf_metadata.h"
#include "export/merged_model.h"

namespace deltacome {
namespace {

struct FileType {
  GgufType type;
  int64_t number;  // general.file_type: most tensors have this type
};

FileType parse_type(const std::string& name) {
  if (name == "f32") return {GgufType::kF32, 0};
  if (name == "f16") return {GgufType::kF16, 1};
  if (name == "q8_0") return {GgufType::kQ8_0, 7};
  if (name == "bf16") return {GgufType::kBf16, 32};
  fail(ErrorCode::kInvalidArgument, "GGUF type is \"{}\", expected f32, f16, bf16 or q8_0", name);
}

/// Norms and biases are f32 in every file; rows that blocks do not divide are f16.
GgufType type_of(const ExpectedTensor& tensor, GgufType wanted) {
  if (tensor.shape.size() < 2) return GgufType::kF32;
  const bool fits = wanted != GgufType::kQ8_0 || tensor.shape[1] % kQ8Block == 0;
  return fits ? wanted : GgufType::kF16;
}

/// Row h * d + 2 j + k becomes what row h * d + k * d / 2 + j was.
void permute(std::vector<float>& values, int64_t rows, int64_t head_dim) {
  const std::vector<float> from = values;
  const int64_t cols = static_cast<int64_t>(values.size()) / rows, half = head_dim / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t in_head = r % head_dim;
    const int64_t source = r - in_head + in_head % 2 * half + in_head / 2;
    std::copy_n(from.begin() + source * cols, cols, values.begin() + r * cols);
  }
}

void check_range(const std::vector<float>& values, GgufType type, const std::string& name) {
  constexpr float kLargestHalf = 65504;
  if (type != GgufType::kF16) return;
  for (const float value : values) {
    if (std::abs(value) <= kLargestHalf) continue;
    fail(ErrorCode::kUnsupported,
         "tensor \"{}\" holds {}, beyond the largest of f16; write bf16 or f32", name, value);
  }
}

}  // namespace

GgufReport write_gguf(const GgufOptions& options) {
  const FileType type = parse_type(options.type);
  std::error_code ignored;
  if (std::filesystem::exists(options.out, ignored)) {
    fail(ErrorCode::kInvalidArgument, "{} exists already", options.out.string());
  }
  const MergedModel model(options.model);
  const ModelConfig& config = model.config();
  if (config.vision) {
    fail(ErrorCode::kUnsupported,
         "the model sees pictures: a GGUF file of its kind is two files, language model and vision "
         "tower, which are not written here; merge writes it as a checkpoint");
  }
  const std::vector<CompanionFile> files = model.companions();
  const auto tokenizer = std::find_if(files.begin(), files.end(), [](const CompanionFile& file) {
    return file.name == "tokenizer.json";
  });
  const std::filesystem::path& named =
      options.model.deltas.empty() ? options.model.base : options.model.deltas.front();

  GgufWriter writer(options.out);
  GgufReport report;
  writer.add("general.architecture", gguf_architecture(config));
  writer.add("general.type", "model");
  writer.add("general.name", directory_name(named));
  writer.add_u32("general.file_type", type.number);
  if (type.type == GgufType::kQ8_0) writer.add_u32("general.quantization_version", 2);
  report.notes = add_model_metadata(writer, config);
  const std::filesystem::path text =
      tokenizer == files.end() ? std::filesystem::path() : tokenizer->directory;
  for (std::string& note : add_text_metadata(writer, config, text))
    report.notes.push_back(std::move(note));

  const std::vector<float> divisors = rope_divisors(config);
  if (!divisors.empty()) {
    writer.add_tensor("rope_freqs.weight", {static_cast<int64_t>(divisors.size())}, GgufType::kF32);
    ++report.tensors;
  }
  for (const ExpectedTensor& tensor : model.tensors()) {
    writer.add_tensor(gguf_tensor_name(tensor.name), tensor.shape, type_of(tensor, type.type));
    ++report.tensors;
  }
  if (!divisors.empty()) writer.append(gguf_bytes(divisors, GgufType::kF32));
  for (const ExpectedTensor& tensor : model.tensors()) {
    // First as the fine-tune holds it, so that every format stands for the same weights.
    const HostTensor stored = model.read(tensor, model.dtype(tensor));
    std::vector<float> values = stored.to_float();
    release_pages(stored.bytes);
    if (is_permuted(config, tensor.name)) permute(values, tensor.shape[0], config.head_dim);
    const GgufType to = type_of(tensor, type.type);
    check_range(values, to, tensor.name);
    writer.append(gguf_bytes(values, to));
  }
  report.bytes = writer.finish();
  return report;
}

}  // namespace deltacome
