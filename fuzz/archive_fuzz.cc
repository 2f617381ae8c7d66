// SPDX-License-Identifier: Apache-2.0
// The input is delta_config.json and, after a zero byte, the header and data of delta.safetensors.
// They are read as an archive whose hashes are right, since no mutation finds one; and the whole
// input as a manifest.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "deltacome/archive.h"
#include "deltacome/error.h"
#include "io/archive.h"
#include "io/files.h"
#include "io/manifest.h"
#include "quant/codes.h"
#include "tests/support/temp_dir.h"

using namespace deltacome;
using nlohmann::json;

namespace {

constexpr int64_t kMaxDecoded = 1 << 16;  // elements

std::string sha256_of(std::string_view bytes) {
  return sha256_hex(std::as_bytes(std::span(bytes)));
}

void read_manifest(std::string_view text) {
  try {
    const Manifest manifest = parse_manifest(text, "fuzz");
    if (format_manifest(manifest) != text) std::abort();
  } catch (const Error&) {
  }
}

/// A name that a test may create below its directory.
bool is_plain(const std::string& name) {
  return !name.empty() && name.size() < 32 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_';
         });
}

std::string with_size(std::string_view header_and_data) {
  const size_t brace = header_and_data.rfind('}');
  const size_t header = brace == std::string_view::npos ? 0 : brace + 1;
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header >> (8 * i) & 0xffu));
  return file.append(header_and_data);
}

/// The configuration with the hashes that its tensors have in `tensors`.
std::string with_hashes(json config, std::string_view tensors) {
  try {
    const auto file = SafetensorsFile::parse(std::as_bytes(std::span(tensors)), nullptr, "fuzz");
    for (json& tensor : config.at("tensors")) {
      const auto found = file.tensors().find(tensor.at("name").get<std::string>());
      if (found != file.tensors().end()) tensor["sha256"] = sha256_hex(found->second.bytes);
    }
  } catch (const Error&) {
  } catch (const json::exception&) {
  }
  return config.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// A directory of this process; its archive is written again for each input.
class ArchiveDirectory {
 public:
  const std::filesystem::path& path() const { return directory_.path(); }

  void write(std::string_view config_text, std::string_view tensors) {
    for (const std::string& name : written_) std::filesystem::remove(directory_ / name);
    written_.clear();
    const json config = json::parse(config_text, nullptr, false);
    Manifest manifest;
    const auto put = [&](const std::string& name, std::string_view bytes) {
      std::ofstream(directory_ / name, std::ios::binary) << bytes;
      manifest[name] = sha256_of(bytes);
      written_.push_back(name);
    };
    if (config.is_object()) {
      put("delta_config.json", with_hashes(config, tensors));
      if (const auto files = config.find("files"); files != config.end() && files->is_array()) {
        for (const json& file : *files)
          if (file.is_string() && is_plain(file.get<std::string>())) put(file, "{}");
      }
    } else {
      put("delta_config.json", config_text);
    }
    put("delta.safetensors", tensors);
    std::ofstream(directory_ / kManifestName) << format_manifest(manifest);
  }

 private:
  test::TempDir directory_;
  std::vector<std::string> written_;
};

void decode(const Archive& archive) {
  for (const ArchiveTensor& tensor : archive.config().tensors) {
    const std::vector<std::byte> blob = archive.read_blob(tensor);
    const MatrixFormat& f = tensor.format;
    if (f.codec == Codec::kRaw) continue;
    if (std::max(f.n_out(), f.n_in()) * std::max<int64_t>(f.rank(), 1) > kMaxDecoded) continue;
    if (f.codec != Codec::kLowRank && f.n_out() * f.n_in() > kMaxDecoded) continue;
    (void)decode_delta(f, blob);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static ArchiveDirectory directory;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  read_manifest(input);
  const size_t cut = std::min(input.find('\0'), size);
  directory.write(input.substr(0, cut),
                  with_size(cut == size ? std::string_view() : input.substr(cut + 1)));
  try {
    const Archive archive = Archive::open(directory.path());
    if (archive.all_in_bytes() <= 0) std::abort();
    (void)archive.verify();
    decode(archive);
    (void)inspect_archive(directory.path());
  } catch (const Error&) {
  }
  return 0;
}
