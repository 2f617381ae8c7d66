// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

namespace deltacome {

/// The entries of a ZIP file (with ZIP64) whose bytes are stored as they are, as torch.save writes
/// them: name -> a part of `file`. Untrusted bytes: throws kCorrupt for records that do not fit the
/// file, for names that are there twice, for more than a million entries; kUnsupported for entries
/// that are compressed or encrypted and for files of several parts. `where` begins the messages.
/// Checksums are not checked: what is read has a content hash of its own.
std::map<std::string, std::span<const std::byte>> read_stored_zip(std::span<const std::byte> file,
                                                                  const std::string& where);

}  // namespace deltacome
