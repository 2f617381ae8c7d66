// SPDX-License-Identifier: Apache-2.0
#include "file_cache.h"

#include <fcntl.h>
#include <unistd.h>

namespace deltacome::cli {

void drop_from_file_cache(const std::filesystem::path& directory) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
}

}  // namespace deltacome::cli
