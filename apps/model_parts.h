// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "cli.h"
#include "deltacome/export.h"

namespace deltacome::cli {

/// --base-delta: archives that make the base what it is.
void add_base_delta_option(CLI::App& command, std::vector<std::string>& base_deltas);

std::vector<std::filesystem::path> to_paths(const std::vector<std::string>& names);

/// The options that say which model a command writes.
struct PartsChoice {
  std::string base, combination = "linear";
  std::vector<std::string> base_deltas, deltas;
  ModelParts parts;  // numbers
};
void add_parts_options(CLI::App& command, PartsChoice& choice);
/// Those of them that say how several fine-tunes become one.
void add_combination_options(CLI::App& command, PartsChoice& choice);
ModelParts to_parts(const PartsChoice& choice);
/// "base + delta + delta", on one line.
std::string describe(const PartsChoice& choice);

}  // namespace deltacome::cli
