// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "deltacome/archive.h"

namespace deltacome::cli {

/// All tensors of one kind: sums, and means over those where a figure was measured (negative if
/// nowhere).
struct KindReport {
  std::string kind;
  std::string plan;  // "lowrank 2:8/8 30:3/3" (rank:V bits/U bits), "vector 8 (1 bit) + gains"
                     // (weights a code), "mixed" if tensors differ
  int64_t tensors = 0, bytes = 0, weights = 0;
  double rank = 0, relative_error = -1, energy = -1, stable_rank = -1;
  double bits_per_weight() const {
    return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
};

/// In the order in which the kinds first appear.
std::vector<KindReport> kinds_of(const ArchiveInfo& info);

/// Everything that ArchiveInfo tells; figures that were not measured are null.
nlohmann::ordered_json to_json(const ArchiveInfo& info);
nlohmann::ordered_json to_json(const KindReport& kind);

std::string kinds_table(const ArchiveInfo& info);
std::string sizes_table(const ArchiveInfo& info);
/// What calibrated it and what was measured, one line each.
std::string fidelity_lines(const ArchiveInfo& info);

}  // namespace deltacome::cli
