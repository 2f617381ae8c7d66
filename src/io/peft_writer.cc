// SPDX-License-Identifier: Apache-2.0
#include "io/peft_writer.h"

#include <cmath>
#include <set>

#include "core/check.h"
#include "io/archive.h"
#include "io/json.h"
#include "io/peft_tensors.h"

namespace deltacome {
namespace {

constexpr const char* kTensorsName = "adapter_model.safetensors";

std::string config_json(const std::string& base_name, int64_t rank,
                        const std::set<std::string>& kinds) {
  const nlohmann::ordered_json config{{"peft_type", "LORA"},
                                      {"task_type", "CAUSAL_LM"},
                                      {"base_model_name_or_path", base_name},
                                      {"inference_mode", true},
                                      {"r", rank},
                                      {"lora_alpha", rank},
                                      {"lora_dropout", 0.0},
                                      {"bias", "none"},
                                      {"fan_in_fan_out", false},
                                      {"use_rslora", false},
                                      {"use_dora", false},
                                      {"target_modules", kinds},
                                      {"modules_to_save", nullptr}};
  return config.dump(2) + "\n";
}

}  // namespace

int64_t write_peft_adapter(const std::filesystem::path& directory, const std::string& base_name,
                           int64_t rank, DType dtype, const std::vector<LoraFactors>& factors) {
  std::set<std::string> kinds;
  std::vector<TensorSpec> specs;
  for (const LoraFactors& f : factors) {
    kinds.insert(tensor_kind(f.name));
    const std::string stem = std::string(kPeftPrefix) + f.name.substr(0, f.name.rfind(".weight"));
    specs.push_back({fmt::format("{}{}", stem, kLoraA), dtype, {rank, f.n_in}});
    specs.push_back({fmt::format("{}{}", stem, kLoraB), dtype, {f.n_out, rank}});
  }
  SafetensorsWriter writer(directory / kTensorsName, specs, {{"format", "pt"}});
  for (const LoraFactors& f : factors) {
    for (const std::vector<float>* values : {&f.a, &f.b}) {
      std::vector<std::byte> bytes(values->size() * static_cast<size_t>(dtype_bytes(dtype)));
      convert_from_float(*values, dtype, bytes.data());
      std::vector<float> stored(values->size());
      convert_to_float(bytes.data(), dtype, stored);
      for (const float value : stored) {
        if (std::isfinite(value)) continue;
        fail(ErrorCode::kUnsupported, "the factors of \"{}\" are beyond the range of {}", f.name,
             dtype_name(dtype));
      }
      writer.append(bytes);
    }
  }
  writer.finish();
  const std::string config = config_json(base_name, rank, kinds);
  write_file_atomically(directory / kPeftConfigName, config);
  return static_cast<int64_t>(config.size() + std::filesystem::file_size(directory / kTensorsName));
}

}  // namespace deltacome
