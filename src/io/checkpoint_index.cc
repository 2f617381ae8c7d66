// SPDX-License-Identifier: Apache-2.0
#include "io/checkpoint_index.h"

#include "core/check.h"
#include "io/json.h"

namespace deltacome {
namespace {

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      DELTACOME_CHECK(dtype == DType::kF32);
      return "float32";
  }
}

}  // namespace

std::string checkpoint_index_json(const std::vector<std::pair<std::string, std::string>>& places,
                                  int64_t total_bytes) {
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const auto& [tensor, file] : places) map[tensor] = file;
  const nlohmann::ordered_json index{{"metadata", {{"total_size", total_bytes}}},
                                     {"weight_map", map}};
  return index.dump(2) + "\n";
}

std::string config_with_dtype(std::string_view config_json, DType dtype, const std::string& where) {
  parse_json_object(config_json, where);  // its checks; below only order is kept
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json);
  // transformers 5 writes dtype, earlier versions torch_dtype, and each reads both.
  const bool modern = config.contains("dtype");
  if (config.contains("torch_dtype") || !modern) config["torch_dtype"] = torch_name(dtype);
  if (modern) config["dtype"] = torch_name(dtype);
  return config.dump(2) + "\n";
}

std::string quoted_json(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace deltacome
