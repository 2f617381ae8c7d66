// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "deltacome/compress.h"

namespace deltacome {

/// Writes a LoRA adapter (options.finetuned, in PEFT's layout) as an archive of method "lora": its
/// factors in 16 bits, the files that it lacks from the base. Of the options only base, finetuned
/// and out count. Throws what PeftAdapter and Checkpoint throw; all or nothing.
CompressReport convert_adapter(const CompressOptions& options);

}  // namespace deltacome
