// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace deltacome::cli {

/// The files of a directory are read from the disk again. What lies in memory alone (/dev/shm) and
/// pages that were not written yet stay.
void drop_from_file_cache(const std::filesystem::path& directory);

}  // namespace deltacome::cli
