// SPDX-License-Identifier: Apache-2.0
#include "io/peft_adapter.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "io/fused_projections.h"
#include "io/json.h"
#include "io/peft_config.h"
#include "io/peft_tensors.h"
#include "io/same_architecture.h"
#include "io/torch_file.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTensorsName = "adapter_model.safetensors";
constexpr const char* kTorchName = "adapter_model.bin";
constexpr const char* kTokenizerName = "tokenizer.json";
constexpr size_t kMaxConfigBytes = 4u << 20;

/// Why a tensor is refused that is neither A nor B nor stored whole.
std::string_view foreign(const std::string& name) {
  if (name.find("lora_magnitude_vector") != std::string::npos) return "DoRA is not supported";
  if (name.find("lora_embedding") != std::string::npos)
    return "adapters of embeddings are not supported";
  if (name.ends_with(".bias")) return "biases outside of modules_to_save are not supported";
  return "modules_to_save does not name it";
}

void check_values(const std::string& name, const HostTensor& tensor, const std::string& where) {
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBf16) {
    fail(ErrorCode::kUnsupported, "{}: tensor {} is {}, expected F32, F16 or BF16", where,
         quote(name), dtype_name(tensor.dtype));
  }
  for (int64_t r = 0; r < tensor.rows(); ++r) {
    const std::vector<float> row = tensor.to_float(r, 1);
    const auto bad =
        std::find_if_not(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
    if (bad == row.end()) continue;
    fail(ErrorCode::kCorrupt, "{}: tensor {} holds {} at row {}, column {}", where, quote(name),
         *bad, r, bad - row.begin());
  }
}

void check_matrix(const std::string& name, const HostTensor& tensor, const std::string& where) {
  if (tensor.shape.size() != 2 || tensor.size() == 0) {
    fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected a matrix", where, quote(name),
         to_string(tensor.shape));
  }
  check_values(name, tensor, where);
}

/// The matrix of one A, with its B.
LoraModule pair_up(const Checkpoint& file, const std::string& name_of_a, const PeftConfig& config,
                   const std::string& where) {
  const std::string prefix = name_of_a.substr(0, name_of_a.size() - kLoraA.size());
  const std::string module = prefix.substr(kPeftPrefix.size());
  const std::string name_of_b = fmt::format("{}{}", prefix, kLoraB);
  const HostTensor& a = file.at(name_of_a);
  const HostTensor* b = file.find(name_of_b);
  if (b == nullptr) {
    fail(ErrorCode::kMismatch, "{}: tensor {} is there, but {} is missing", where, quote(name_of_a),
         quote(name_of_b));
  }
  check_matrix(name_of_a, a, where);
  check_matrix(name_of_b, *b, where);
  const int64_t rank = config.rank(module);
  if (a.rows() != rank) {
    fail_peft_shape(where, name_of_a, a.shape, {rank, a.cols()},
                    fmt::format(" by {}", kPeftConfigName));
  }
  if (b->cols() != rank)
    fail_peft_shape(where, name_of_b, b->shape, {b->rows(), rank}, " by the rank of its lora_A");
  return {.name = canonical_tensor_name(module + ".weight"),
          .prefix = prefix,
          .a = a,
          .b = *b,
          .scale = config.scale(module)};
}

/// Whether PEFT puts the tensor in the place of the base's: it is part of modules_to_save, or of
/// embeddings, which PEFT also saves when they were resized.
bool is_whole(const std::string& name, const PeftConfig& config) {
  if (!name.starts_with(kPeftPrefix) || name.find(".lora_") != std::string::npos) return false;
  const std::string own = name.substr(kPeftPrefix.size());
  return config.is_saved_whole(own.substr(0, own.rfind('.'))) || own == "lm_head.weight" ||
         own.ends_with("embed_tokens.weight");
}

/// Every module of modules_to_save has a tensor, and none is adapted by factors too.
void check_saved(const std::vector<LoraModule>& modules, const std::vector<WholeTensor>& wholes,
                 const PeftConfig& config, const std::string& where) {
  for (const std::string& saved : config.saved_modules()) {
    const auto is_of = [&](const WholeTensor& whole) {
      return whole.stored_name.find(saved) != std::string::npos;
    };
    if (std::ranges::any_of(wholes, is_of)) continue;
    fail(ErrorCode::kMismatch, "{}: no tensor is of {}, which modules_to_save of {} names", where,
         quote(saved), kPeftConfigName);
  }
  for (const WholeTensor& whole : wholes) {
    const auto same = [&](const LoraModule& module) { return module.name == whole.name; };
    const auto module = std::ranges::find_if(modules, same);
    if (module == modules.end()) continue;
    fail(ErrorCode::kMismatch, "{}: tensor {} is stored whole, but {}{} adapts it", where,
         quote(whole.stored_name), module->prefix, kLoraA);
  }
}

}  // namespace

bool is_peft_adapter(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kPeftConfigName, ignored) &&
         !fs::exists(directory / "delta_config.json", ignored);
}

PeftAdapter PeftAdapter::open(const fs::path& directory) {
  const fs::path path = directory / kPeftConfigName;
  const PeftConfig config = PeftConfig::parse(read_text_file(path, kMaxConfigBytes), path.string());
  PeftAdapter adapter;
  adapter.directory_ = directory;
  adapter.base_name_ = config.base_name();
  std::error_code ignored;
  const bool torch =
      !fs::exists(directory / kTensorsName, ignored) && fs::exists(directory / kTorchName, ignored);
  const fs::path tensors = directory / (torch ? kTorchName : kTensorsName);
  const std::string where = tensors.string();
  adapter.file_ = Checkpoint::of(
      torch ? read_torch_file(tensors) : SafetensorsFile::open(tensors).tensors(), tensors);
  for (const auto& [name, tensor] : adapter.file_.tensors()) {
    if (is_whole(name, config)) {
      check_values(name, tensor, where);
      adapter.wholes_.push_back(
          {canonical_tensor_name(name.substr(kPeftPrefix.size())), name, tensor});
      continue;
    }
    const bool prefixed = name.starts_with(kPeftPrefix);
    if (prefixed && name.ends_with(kLoraA)) {
      adapter.modules_.push_back(pair_up(adapter.file_, name, config, where));
      continue;
    }
    if (!prefixed || !name.ends_with(kLoraB)) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} {}, expected names {}<module>{} and {}: {}",
           where, quote(name), to_string(tensor.shape), kPeftPrefix, kLoraA, kLoraB, foreign(name));
    }
    const std::string name_of_a =
        fmt::format("{}{}", name.substr(0, name.size() - kLoraB.size()), kLoraA);
    if (adapter.file_.find(name_of_a) == nullptr) {
      fail(ErrorCode::kMismatch, "{}: tensor {} is there, but {} is missing", where, quote(name),
           quote(name_of_a));
    }
  }
  if (adapter.file_.tensors().empty()) fail(ErrorCode::kCorrupt, "{}: holds no tensors", where);
  adapter.embeddings_alone_ = config.is_saved_whole("model.embed_tokens") && !config.ties_weights();
  check_saved(adapter.modules_, adapter.wholes_, config, where);
  return adapter;
}

std::string PeftAdapter::content_hash() const {
  return deltacome::content_hash(file_.tensors());
}

int64_t PeftAdapter::file_bytes() const {
  return static_cast<int64_t>(fs::file_size(directory_ / kPeftConfigName) +
                              fs::file_size(file_.directory()));
}

int64_t PeftAdapter::tokenizer_bytes() const {
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    if (is_tokenizer_file(entry.path().filename().string()))
      bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

bool PeftAdapter::has_tokenizer() const {
  std::error_code ignored;
  return fs::exists(directory_ / kTokenizerName, ignored);
}

bool PeftAdapter::has_type(DType dtype) const noexcept {
  return std::any_of(modules_.begin(), modules_.end(), [&](const LoraModule& module) {
    return module.a.dtype == dtype || module.b.dtype == dtype;
  });
}

ModelConfig PeftAdapter::model_config(const fs::path& base_directory,
                                      const ModelConfig& base) const {
  ModelConfig config = read_model_config(directory_, base_directory);
  check_same_architecture(base, config);
  for (const LoraModule& module : modules_) {
    if (fused_parts(module.name).empty() || has_fused_projections(base)) continue;
    fail(ErrorCode::kMismatch, "{}: {} adapts several projections in one, which {} keeps apart",
         file_.directory().string(), quote(module.prefix), base.architecture);
  }
  for (const ExpectedTensor& tensor : expected_tensors(base)) {
    if (tensor.kind != ExpectedTensor::Kind::kEmbedding &&
        tensor.kind != ExpectedTensor::Kind::kHead)
      continue;
    const auto own = std::ranges::find(wholes_, tensor.name, &WholeTensor::name);
    const int64_t rows = own != wholes_.end() ? own->tensor.rows() : tensor.shape.front();
    if (config.vocab_size == rows) continue;
    fail(ErrorCode::kMismatch, "{}: vocab_size is {}, expected {}, the rows of {} tensor {}",
         (directory_ / "config.json").string(), config.vocab_size, rows,
         own != wholes_.end() ? "the adapter's" : "the base's", quote(tensor.name));
  }
  return config;
}

}  // namespace deltacome
