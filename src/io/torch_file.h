// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "core/host_tensor.h"

namespace deltacome {

/// The tensors of a file that torch.save({name: tensor, ...}) wrote (PyTorch 1.6 or later): a ZIP
/// file with a pickle and a file for each storage. Bytes stay in the mapped file; tensors that are
/// not contiguous are copied, in all at most as many bytes as the file has. Untrusted bytes, of
/// which nothing is executed: throws kNotFound, kIo; kCorrupt for records, sizes and views that do
/// not fit; kUnsupported for legacy files, big-endian ones, and what read_torch_pickle() refuses.
std::map<std::string, HostTensor> read_torch_file(const std::filesystem::path& path);

/// The same for bytes in memory; `name` stands for the file in messages.
std::map<std::string, HostTensor> parse_torch_file(std::span<const std::byte> bytes,
                                                   std::shared_ptr<const void> owner,
                                                   const std::string& name);

}  // namespace deltacome
