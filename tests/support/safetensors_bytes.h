// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <ios>
#include <string>
#include <string_view>

#include "io/safetensors.h"

namespace deltacome::test {

/// A safetensors file of a hand-written header and data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data,
                                     uint64_t header_size) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(header_size >> (8 * i) & 0xffu));
  return out.append(header).append(data);
}
inline std::string safetensors_bytes(std::string_view header, std::string_view data = {}) {
  return safetensors_bytes(header, data, header.size());
}

/// The bytes must outlive the result.
inline SafetensorsFile parse_safetensors(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), nullptr, "x.safetensors");
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace deltacome::test
