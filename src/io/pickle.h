// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace deltacome {

/// A tensor as a PyTorch pickle describes it: a strided view of a storage, which is a file beside
/// the pickle.
struct PickledTensor {
  std::string name;                     // its key in the dictionary
  std::string storage;                  // key of the storage: "0"
  std::string type;                     // class of the storage: "FloatStorage"
  int64_t storage_size = 0;             // elements
  int64_t offset = 0;                   // elements
  std::vector<int64_t> shape, strides;  // of one length, none negative
};

/// Reads data.pkl of torch.save({name: tensor, ...}): dict or OrderedDict, tensors or parameters.
/// Nothing is executed: the opcodes and the globals that may occur are closed lists, and a global
/// is only a name. Work and memory are bounded by the size of the pickle, which has a limit, and
/// nothing recurses. Untrusted bytes: throws kCorrupt for what is no pickle, kUnsupported naming
/// the opcode, global or value that is not on the lists, and the byte where it is. `where` begins
/// the messages.
std::vector<PickledTensor> read_torch_pickle(std::span<const std::byte> pickle,
                                             const std::string& where);

}  // namespace deltacome
