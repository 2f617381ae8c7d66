// SPDX-License-Identifier: Apache-2.0
#include "combined_finetune.h"

#include <fmt/format.h>

#include <system_error>

namespace deltacome::cli {
namespace {

/// "dir/" is "dir".
std::filesystem::path without_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

std::string name_of(const PartsChoice& choice) {
  std::string name = choice.combination + " of ";
  for (size_t i = 0; i < choice.deltas.size(); ++i) {
    if (i > 0) name += " + ";
    if (!choice.parts.weights.empty()) name += fmt::format("{} ", choice.parts.weights[i]);
    name += without_slash(choice.deltas[i]).filename().string();
  }
  return name;
}

}  // namespace

CombinedFinetune::CombinedFinetune(const PartsChoice& choice, const std::filesystem::path& out,
                                   bool resume)
    : path_(without_slash(out).string() + ".combined"), name_(name_of(choice)) {
  std::error_code ignored;
  if (resume && std::filesystem::exists(path_, ignored)) return;
  write_checkpoint({.model = to_parts(choice), .out = path_, .dtype = {}});
}

CombinedFinetune::~CombinedFinetune() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace deltacome::cli
