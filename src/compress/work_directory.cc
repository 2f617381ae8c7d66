// SPDX-License-Identifier: Apache-2.0
#include "compress/work_directory.h"

#include <sstream>

#include "core/check.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIdentityName = "run.txt";

/// The first line in which two texts differ, as "got, expected".
std::string first_difference(const std::string& stored, const std::string& wanted) {
  std::istringstream a(stored), b(wanted);
  std::string x, y;
  for (;;) {
    const bool more_a = static_cast<bool>(std::getline(a, x)),
               more_b = static_cast<bool>(std::getline(b, y));
    if (!more_a) x.clear();
    if (!more_b) y.clear();
    if (x != y || (!more_a && !more_b)) return fmt::format("it has \"{}\", this run \"{}\"", x, y);
  }
}

}  // namespace

WorkDirectory::WorkDirectory(const fs::path& out, const std::string& identity, bool resume) {
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "dir/" is "dir"
  std::error_code error;
  if (fs::exists(target, error) &&
      !(fs::is_directory(target, error) && fs::is_empty(target, error))) {
    fail(ErrorCode::kInvalidArgument, "output {} exists and is not an empty directory",
         target.string());
  }
  path_ = target.string() + ".partial";
  const fs::path file = path_ / kIdentityName;
  if (resume && fs::exists(file, error)) {
    if (const std::string stored = read_text_file(file); stored != identity) {
      fail(ErrorCode::kMismatch,
           "{} holds parts of another run ({}); run without --resume to start over", path_.string(),
           first_difference(stored, identity));
    }
    return;
  }
  fs::remove_all(path_, error);
  if (!fs::create_directories(path_, error)) {
    fail(ErrorCode::kIo, "cannot create {}: {}", path_.string(), error.message());
  }
  write_file_atomically(file, identity);
}

std::optional<std::vector<CodedTensor>> WorkDirectory::read(const std::string& part) const {
  const fs::path file = path_ / (part + ".safetensors");
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  return read_shard(file);
}

void WorkDirectory::write(const std::string& part, const std::vector<CodedTensor>& tensors) const {
  write_shard(path_ / (part + ".safetensors"), tensors);
}

void WorkDirectory::remove() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace deltacome
