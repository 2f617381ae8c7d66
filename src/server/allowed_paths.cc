// SPDX-License-Identifier: Apache-2.0
#include "server/allowed_paths.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/utf8.h"
#include "server/errors.h"
#include "server/json_fields.h"

namespace deltacome::server {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameBytes = 128;
constexpr int kMaxFiles = 4096;  // in a directory that is looked through

[[noreturn]] void refuse(const std::string& path) {
  throw ApiError(403, fmt::format("the path {} is not below a directory that the server may load "
                                  "from (--model-dir, --allow-root)",
                                  describe(Json(path))));
}

}  // namespace

AllowedPaths::AllowedPaths(const std::vector<fs::path>& roots) {
  for (const fs::path& root : roots) {
    std::error_code error;
    const fs::path real = fs::canonical(root, error);
    if (error || !fs::is_directory(real))
      fail(ErrorCode::kNotFound, "\"{}\" is not a directory", root.string());
    roots_.push_back(real);
  }
}

bool AllowedPaths::contains(const fs::path& real) const {
  return std::any_of(roots_.begin(), roots_.end(), [&](const fs::path& root) {
    const auto [at, in] = std::mismatch(root.begin(), root.end(), real.begin(), real.end());
    return at == root.end();
  });
}

fs::path AllowedPaths::resolve(const std::string& path) const {
  if (roots_.empty() || path.empty() || path.find('\0') != std::string::npos) refuse(path);
  const fs::path whole = fs::path(path).is_absolute() ? fs::path(path) : roots_[0] / path;
  std::error_code error;
  // What is outside is refused before it is looked for: nobody learns what exists there.
  const fs::path likely = fs::weakly_canonical(whole, error);
  if (error || !contains(likely)) refuse(path);
  const fs::path real = fs::canonical(whole, error);
  if (error || !fs::is_directory(real, error) || error)
    throw ApiError(404, fmt::format("{} is not a directory", describe(Json(path))));
  if (!contains(real)) refuse(path);
  int n = 0;
  for (fs::directory_iterator file(real, error), end; !error && file != end;
       file.increment(error)) {
    if (++n > kMaxFiles)
      throw ApiError(400,
                     fmt::format("{} has more than {} files", describe(Json(path)), kMaxFiles));
    if (!file->is_symlink(error)) continue;
    const fs::path target = fs::canonical(file->path(), error);
    if (error || !contains(target)) refuse(path);
  }
  return real;
}

void check_variant_name(const std::string& name, const std::string& field) {
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  bool good = !name.empty() && name.size() <= kMaxNameBytes && is_valid_utf8(name) &&
              std::none_of(name.begin(), name.end(), control) && name.front() != ' ' &&
              name.back() != ' ';
  for (size_t at = 0; good && at <= name.size();) {
    const size_t slash = std::min(name.find('/', at), name.size());
    const std::string_view part = std::string_view(name).substr(at, slash - at);
    good = !part.empty() && part != "." && part != "..";
    at = slash + 1;
  }
  if (!good)
    throw ApiError(400,
                   fmt::format("\"{}\" is {}, expected 1 to {} bytes of text without control "
                               "characters and empty parts",
                               field, describe(Json(name)), kMaxNameBytes),
                   field);
}

}  // namespace deltacome::server
