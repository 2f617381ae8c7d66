// SPDX-License-Identifier: Apache-2.0
// The input is adapter_config.json.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "deltacome/error.h"
#include "io/peft_config.h"

using namespace deltacome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const PeftConfig config =
        PeftConfig::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const char* module : {"model.layers.0.self_attn.q_proj", "lm_head", ""}) {
      if (config.rank(module) < 1 || !std::isfinite(config.scale(module))) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
