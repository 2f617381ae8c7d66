// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "server/allowed_paths.h"
#include "server/served_engine.h"

namespace deltacome::server {

/// A directory of archives and adapters, each under its variant's name. What appears is registered
/// and loaded when a request names it; what is replaced is served from then on; what is removed is
/// unloaded once its requests have ended. Looks every `interval`: a change counts when it has
/// looked the same twice, so that a copy that goes on is left alone.
class ModelDirectory {
 public:
  /// Registers what is there, and then watches. Throws kNotFound if there is no such directory.
  ModelDirectory(ServedEngine& engine, const std::filesystem::path& directory,
                 std::chrono::milliseconds interval);
  ~ModelDirectory();

  /// Registers `name` now if the directory has it (waits for its check). Throws the check's error.
  bool find(const std::string& name);

 private:
  /// What tells one state of a variant's directory from another.
  struct Stamp {
    std::string text;
    bool operator==(const Stamp&) const = default;
  };
  struct Known {
    Stamp seen;        // at the last look
    Stamp registered;  // that the engine was told of; empty text: none
    bool busy = false;
  };

  static Stamp stamp_of(const std::filesystem::path& directory);
  void run();
  void look();
  void register_now(const std::string& name, const Stamp& stamp, bool replace);

  ServedEngine& engine_;
  const std::filesystem::path directory_;
  const AllowedPaths allowed_;
  const std::chrono::milliseconds interval_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::string, Known> known_;
  bool stopping_ = false;
  int n_busy_ = 0;  // calls of the engine that have not come back
  std::thread thread_;
};

}  // namespace deltacome::server
