// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>

#include "engine/variant_store.h"

namespace deltacome {

/// A name of the store and its versions. Guarded by the store's mutex.
struct VariantEntry : std::enable_shared_from_this<VariantEntry> {
  struct Resident {
    std::shared_ptr<const VariantVersion> version;
    int holds = 0;
  };

  VariantStore* store = nullptr;
  std::string name;
  std::filesystem::path path;
  bool registered = false;  // was loaded or checked once: it can be loaded again on demand
  bool pinned = false;
  bool draining = false;  // leaves when nobody uses it
  bool closing = false;   // takes no new sequences, so that a load finds room (E6)
  bool fresh = false;     // loaded for a request that has not begun: not to be thrown out before
  int64_t requests = 0;
  int64_t jobs = 0;       // queued or running
  uint64_t failures = 0;  // of loads that requests waited for
  uint64_t last_used = 0;
  int64_t loaded_bytes = 0, total_bytes = 0;
  std::optional<Error> last_error;
  std::shared_ptr<const VariantVersion> current;  // null if not in memory
  std::vector<Resident> residents;                // current, and older ones still held
  std::vector<VariantStore::Done> on_removed;

  auto resident(const VariantVersion* version) {
    return std::ranges::find(residents, version, [](const Resident& r) { return r.version.get(); });
  }
  int holds_of_current() {
    const auto found = resident(current.get());
    return found == residents.end() ? 0 : found->holds;
  }
};

/// A load to be done.
struct VariantStore::Job {
  std::shared_ptr<VariantEntry> entry;
  std::filesystem::path path;
  LoadOptions options;
  bool on_demand = false;
  bool given_up = false;
  int64_t reserved = 0;
  Done done;
};

}  // namespace deltacome
