// SPDX-License-Identifier: Apache-2.0
#include "io/fused_projections.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "io/json.h"

namespace deltacome {
namespace {

/// Modules of a layer that are stored as one.
struct Fusion {
  std::string_view whole;
  std::vector<std::string_view> parts;  // in the order of their rows
};
const std::array<Fusion, 2> kFusions{
    {{"self_attn.qkv_proj.weight",
      {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
     {"mlp.gate_up_proj.weight", {"mlp.gate_proj.weight", "mlp.up_proj.weight"}}}};

int64_t rows_of(const std::map<std::string, const ExpectedTensor*>& expected,
                const std::string& name, const std::string& fused, const std::string& where) {
  const auto found = expected.find(name);
  if (found != expected.end()) return found->second->shape.front();
  fail(ErrorCode::kMismatch, "{}: tensor {} is of a layer that the configuration does not have",
       where, quote(fused));
}

}  // namespace

bool has_fused_projections(const ModelConfig& config) {
  return config.model_type == "phi3";
}

std::vector<std::string> fused_parts(const std::string& name) {
  std::vector<std::string> out;
  for (const Fusion& fusion : kFusions) {
    if (!name.ends_with(fusion.whole)) continue;
    for (const std::string_view part : fusion.parts)
      out.push_back(name.substr(0, name.size() - fusion.whole.size()) + std::string(part));
  }
  return out;
}

void split_fused_projections(std::map<std::string, HostTensor>& tensors,
                             const std::filesystem::path& directory) {
  const auto fusion_of = [](const std::string& name) {
    return std::ranges::find_if(kFusions, [&](const Fusion& f) {
      const std::string_view module = f.whole.substr(0, f.whole.rfind('.') + 1);
      return name.find(module) != std::string::npos;
    });
  };
  const auto is_fused = [&](const auto& entry) { return fusion_of(entry.first) != kFusions.end(); };
  if (std::ranges::none_of(tensors, is_fused)) return;
  const ModelConfig config = read_model_config(directory);
  if (!has_fused_projections(config)) return;  // its tensors are checked by name later
  const std::string where = directory.string();
  const std::vector<ExpectedTensor> all = expected_tensors(config);
  std::map<std::string, const ExpectedTensor*> expected;
  for (const ExpectedTensor& tensor : all) expected[tensor.name] = &tensor;

  std::map<std::string, HostTensor> out;
  for (auto& [name, tensor] : tensors) {
    const auto fusion = fusion_of(name);
    if (fusion == kFusions.end()) {
      out.emplace(name, std::move(tensor));
      continue;
    }
    const bool plain =
        tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBf16;
    if (!plain || !name.ends_with(fusion->whole)) {
      fail(ErrorCode::kUnsupported,
           "{}: tensor {} is {}, expected a weight in F32, F16 or BF16: several projections in one "
           "tensor are not read in low precision",
           where, quote(name), dtype_name(tensor.dtype));
    }
    const std::vector<std::string> parts = fused_parts(name);
    int64_t rows = 0;
    for (const std::string& part : parts) rows += rows_of(expected, part, name, where);
    if (tensor.shape.size() != 2 || tensor.rows() != rows) {
      fail(ErrorCode::kMismatch, "{}: tensor {} has shape {}, expected {} rows by its config.json",
           where, quote(name), to_string(tensor.shape), rows);
    }
    const auto row_bytes = static_cast<size_t>(tensor.cols() * dtype_bytes(tensor.dtype));
    size_t first = 0;
    for (const std::string& part : parts) {
      HostTensor view = tensor;
      view.shape[0] = expected.at(part)->shape.front();
      const size_t n_bytes = static_cast<size_t>(view.shape[0]) * row_bytes;
      view.bytes = tensor.bytes.subspan(first, n_bytes);
      first += n_bytes;
      if (!out.emplace(part, std::move(view)).second || tensors.contains(part)) {
        fail(ErrorCode::kCorrupt, "{}: tensor {} is there alone and as a part of {}", where,
             quote(part), quote(name));
      }
    }
  }
  tensors = std::move(out);
}

std::vector<StoredTensor> stored_tensors(const ModelConfig& config) {
  const std::vector<ExpectedTensor> all = expected_tensors(config);
  std::vector<StoredTensor> out;
  for (size_t i = 0; i < all.size(); ++i) {
    const std::string& name = all[i].name;
    const auto starts = [&](const Fusion& f) { return name.ends_with(f.parts.front()); };
    const auto continues = [&](const Fusion& f) {
      return std::any_of(f.parts.begin() + 1, f.parts.end(),
                         [&](std::string_view part) { return name.ends_with(part); });
    };
    if (has_fused_projections(config) && std::ranges::any_of(kFusions, continues)) {
      // Parts follow their first one in the order of the forward pass.
      out.back().parts.push_back(i);
      out.back().shape[0] += all[i].shape[0];
      continue;
    }
    StoredTensor& stored = out.emplace_back(StoredTensor{name, all[i].shape, {i}});
    const auto fusion = std::ranges::find_if(kFusions, starts);
    if (has_fused_projections(config) && fusion != kFusions.end()) {
      stored.name = name.substr(0, name.size() - fusion->parts.front().size());
      stored.name += fusion->whole;
    }
  }
  return out;
}

}  // namespace deltacome
