// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deltacome {

/// Bytes of the process's largest resident memory so far, mapped files included.
int64_t peak_resident_bytes();

/// Gives freed memory back to the system. Without it the blocks of middle size that every stage of
/// a long run takes and frees leave holes, and the resident memory creeps up.
void release_free_memory();

}  // namespace deltacome
