// SPDX-License-Identifier: Apache-2.0
#include "io/archive.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <set>

#include "core/check.h"
#include "io/archive_json.h"
#include "io/base_relation.h"
#include "io/json.h"
#include "io/manifest.h"
#include "io/peft_adapter.h"
#include "io/posix.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigName = "delta_config.json";
constexpr const char* kTensorsName = "delta.safetensors";
constexpr size_t kMaxConfigBytes = 64u << 20;
constexpr size_t kMaxManifestBytes = 1u << 20;

/// Hash of a mapped file; its pages are given back.
std::string hash_of(const fs::path& path) {
  const auto file = MappedFile::open(path);
  std::string hash = sha256_hex(file->bytes());
  release_pages(file->bytes());
  return hash;
}

[[noreturn]] void fail_hash(const fs::path& path, const std::string& got, const std::string& want) {
  fail(ErrorCode::kCorrupt, "{}: SHA-256 is {}, the manifest says {}", path.string(), got, want);
}

/// The companion files of a fine-tune that an archive keeps.
constexpr std::array kTokenizerFiles{"tokenizer.json",
                                     "tokenizer.model",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "chat_template.jinja"};
constexpr const char* kModelConfigName = "config.json";
constexpr std::array kConfigFiles{kModelConfigName, "generation_config.json",
                                  "preprocessor_config.json", "processor_config.json"};

}  // namespace

bool is_tokenizer_file(const std::string& name) {
  return std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end();
}

std::string read_companion(const CompanionFile& file) {
  const fs::path path = file.directory / file.name;
  std::string text = read_text_file(path);
  if (file.name != kModelConfigName) return text;
  nlohmann::json config = parse_json_object(text, path.string());
  return config.erase("quantization_config") == 0 ? text : config.dump(2) + "\n";
}

std::vector<CompanionFile> companion_files(const fs::path& directory, const fs::path& fallback) {
  std::error_code ignored;
  std::vector<CompanionFile> files;
  const auto source = [&](const char* name) {
    return fallback.empty() || fs::exists(directory / name, ignored) ? directory : fallback;
  };
  const auto add = [&](const fs::path& from, const char* name) {
    if (fs::exists(from / name, ignored)) files.push_back({from, name});
  };
  for (const char* name : kConfigFiles) add(source(name), name);
  const fs::path tokenizer = source("tokenizer.json");  // its files belong together
  for (const char* name : kTokenizerFiles) add(tokenizer, name);
  return files;
}

Archive Archive::open(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    fail(ErrorCode::kNotFound, "archive {}: no such directory", directory.string());
  }
  if (!fs::exists(directory / kConfigName, ignored)) {
    if (is_peft_adapter(directory)) {
      fail(ErrorCode::kUnsupported,
           "{} is a LoRA adapter, expected an archive; deltacome compress makes one of it",
           directory.string());
    }
    fail(ErrorCode::kNotFound, "{}: not a deltacome archive: it has no {}", directory.string(),
         kConfigName);
  }
  Archive archive;
  archive.directory_ = directory;
  const fs::path manifest = directory / kManifestName;
  archive.manifest_ =
      parse_manifest(read_text_file(manifest, kMaxManifestBytes), manifest.string());

  const fs::path path = directory / kConfigName;
  const std::string config = read_text_file(path, kMaxConfigBytes);
  const auto listed = archive.manifest_.find(kConfigName);
  if (listed == archive.manifest_.end()) {
    fail(ErrorCode::kCorrupt, "{}: does not list {}", manifest.string(), kConfigName);
  }
  const std::string got = sha256_hex(std::as_bytes(std::span(config)));
  if (got != listed->second) fail_hash(path, got, listed->second);
  archive.config_ = config_from_json(parse_json_object(config, path.string()), path.string());

  std::set<std::string> expected(archive.config_.files.begin(), archive.config_.files.end());
  expected.insert(kConfigName);
  expected.insert(kTensorsName);
  for (const std::string& name : expected) {
    if (!archive.manifest_.contains(name)) {
      fail(ErrorCode::kCorrupt, "{}: does not list {}", manifest.string(), name);
    }
  }
  if (expected.size() != archive.manifest_.size()) {
    fail(ErrorCode::kCorrupt, "{}: lists {} files, {} names {}", manifest.string(),
         archive.manifest_.size(), kConfigName, expected.size());
  }

  // Every later blob() takes name, extent and hash from the checked configuration; the header only
  // says where the bytes lie, and a wrong place gives a wrong hash.
  auto file = std::make_shared<SafetensorsFile>(SafetensorsFile::open(directory / kTensorsName));
  for (const ArchiveTensor& tensor : archive.config_.tensors) {
    const HostTensor& stored = file->at(tensor.name);
    const int64_t want = layout_of(tensor.format).total_bytes;
    if (stored.dtype != DType::kU8 || static_cast<int64_t>(stored.bytes.size()) != want) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} holds {} bytes of {}, expected {} of U8",
           (directory / kTensorsName).string(), quote(tensor.name), stored.bytes.size(),
           dtype_name(stored.dtype), want);
    }
  }
  if (file->tensors().size() != archive.config_.tensors.size()) {
    fail(ErrorCode::kCorrupt, "{}: holds {} tensors, {} describes {}",
         (directory / kTensorsName).string(), file->tensors().size(), kConfigName,
         archive.config_.tensors.size());
  }
  archive.file_ = std::move(file);
  return archive;
}

const ArchiveTensor* Archive::find(const std::string& name) const noexcept {
  const auto it = std::find_if(config_.tensors.begin(), config_.tensors.end(),
                               [&](const ArchiveTensor& t) { return t.name == name; });
  return it == config_.tensors.end() ? nullptr : &*it;
}

void Archive::check_blob(const ArchiveTensor& tensor, std::span<const std::byte> bytes) const {
  if (const std::string got = sha256_hex(bytes); got != tensor.sha256) {
    fail(ErrorCode::kCorrupt, "{}: tensor {}: SHA-256 of its bytes is {}, {} says {}",
         (directory_ / kTensorsName).string(), quote(tensor.name), got, kConfigName, tensor.sha256);
  }
}

HostTensor Archive::blob(const ArchiveTensor& tensor) const {
  HostTensor stored = file_->at(tensor.name);
  check_blob(tensor, stored.bytes);
  stored.owner = file_;
  return stored;
}

std::vector<std::byte> Archive::read_blob(const ArchiveTensor& tensor) const {
  // Read, not mapped: a file that is cut short meanwhile is an error, not a SIGBUS.
  const std::span<const std::byte> stored = file_->at(tensor.name).bytes;
  const fs::path path = directory_ / kTensorsName;
  std::ifstream file(path, std::ios::binary);
  std::vector<std::byte> bytes(stored.size());
  file.seekg(stored.data() - file_->header_bytes().data());
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file) {  // at its end: it is another one than was opened
    fail(file.eof() ? ErrorCode::kCorrupt : ErrorCode::kIo,
         "{}: tensor {}: its {} bytes cannot be read", path.string(), quote(tensor.name),
         bytes.size());
  }
  check_blob(tensor, bytes);
  return bytes;
}

void Archive::will_read_all() const noexcept {
  const FileDescriptor file(::open((directory_ / kTensorsName).c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() >= 0) ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_WILLNEED);
}

void Archive::check_base(const Checkpoint& base) const {
  check_base(base.directory(), base.content_hash());
}

void Archive::check_base(const fs::path& base, const std::string& hash) const {
  if (hash == config_.base_hash || related_base(base, hash) == config_.base_hash) return;
  if (config_.parent) {
    fail(ErrorCode::kMismatch,
         "archive {} was made from base \"{}\" with archive \"{}\" (content hash {}) on it, but {} "
         "is another base; give that archive with --base-delta, where a command has it",
         directory_.string(), config_.base_name, config_.parent->name, config_.parent->hash,
         base.string());
  }
  fail(ErrorCode::kMismatch,
       "archive {} was made from base \"{}\" with content hash {}, but {} has content hash {}",
       directory_.string(), config_.base_name, config_.base_hash, base.string(), hash);
}

void Archive::check_file(const std::string& name) const {
  const auto listed = manifest_.find(name);
  if (listed == manifest_.end()) {
    fail(ErrorCode::kNotFound, "archive {}: has no file {}", directory_.string(), name);
  }
  if (const std::string got = hash_of(directory_ / name); got != listed->second) {
    fail_hash(directory_ / name, got, listed->second);
  }
}

void Archive::check_files() const {
  for (const auto& [name, hash] : manifest_) check_file(name);
}

void Archive::check_companions() const {
  for (const auto& [name, hash] : manifest_) {
    if (name != kTensorsName) check_file(name);
  }
}

const std::string& Archive::content_hash() const {
  return manifest_.at(kConfigName);
}

int64_t Archive::file_bytes(const std::string& name) const {
  std::error_code error;
  const auto size = fs::file_size(directory_ / name, error);
  return error ? 0 : static_cast<int64_t>(size);
}

int64_t Archive::all_in_bytes() const {
  int64_t bytes = file_bytes(kManifestName);
  for (const auto& [name, hash] : manifest_) {
    if (!is_tokenizer_file(name)) bytes += file_bytes(name);
  }
  return bytes;
}

int64_t Archive::tensor_bytes() const {
  int64_t bytes = 0;
  for (const ArchiveTensor& tensor : config_.tensors) bytes += layout_of(tensor.format).total_bytes;
  return bytes;
}

std::vector<std::string> Archive::verify() const {
  check_files();
  for (const ArchiveTensor& tensor : config_.tensors) blob(tensor);
  std::vector<std::string> notes;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    if (name != kManifestName && !manifest_.contains(name)) {
      notes.push_back(
          fmt::format("{} is not part of the archive and was not checked", quote(name)));
    }
  }
  std::sort(notes.begin(), notes.end());
  return notes;
}

void ArchiveWriter::add(ArchiveTensor tensor, std::function<std::vector<std::byte>()> load) {
  config_.tensors.push_back(std::move(tensor));
  loaders_.push_back(std::move(load));
}

void ArchiveWriter::add(const CodedTensor& tensor) {
  add({tensor.name, tensor.format, sha256_hex(tensor.blob), tensor.stats},
      [blob = tensor.blob] { return blob; });
}

void ArchiveWriter::write(const fs::path& directory, const fs::path& companions,
                          const fs::path& fallback) {
  StagedDirectory stage(directory);
  std::vector<TensorSpec> specs;
  for (const ArchiveTensor& tensor : config_.tensors) {
    specs.push_back({tensor.name, DType::kU8, {layout_of(tensor.format).total_bytes}});
  }
  SafetensorsWriter tensors(stage.staging() / kTensorsName, specs, {{"format", "deltacome"}});
  for (size_t i = 0; i < loaders_.size(); ++i) {
    const std::vector<std::byte> blob = loaders_[i]();
    DELTACOME_CHECK(static_cast<int64_t>(blob.size()) == specs[i].shape[0]);
    if (sha256_hex(blob) != config_.tensors[i].sha256) {
      fail(ErrorCode::kCorrupt, "tensor {}: its bytes changed while the archive was written",
           quote(config_.tensors[i].name));
    }
    tensors.append(blob);
  }
  tensors.finish();

  config_.files.clear();
  for (const CompanionFile& file : companion_files(companions, fallback)) {
    write_file_atomically(stage.staging() / file.name, read_companion(file));
    config_.files.push_back(file.name);
  }
  std::string config = nlohmann::json(to_json(config_)).dump();
  config += '\n';
  write_file_atomically(stage.staging() / kConfigName, config);

  Manifest manifest;
  for (const auto& entry : fs::directory_iterator(stage.staging())) {
    manifest[entry.path().filename().string()] = hash_of(entry.path());
  }
  write_file_atomically(stage.staging() / kManifestName, format_manifest(manifest));
  stage.commit();
}

}  // namespace deltacome
