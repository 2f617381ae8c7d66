// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/json_fields.h"
#include "server/served_engine.h"

namespace deltacome::server {

/// The names that `model` may have, and what is known of the variants behind them. Thread-safe.
class VariantNames {
 public:
  /// `find_on_disk` registers a name that the engine does not know, if it can (blocking); may be
  /// empty.
  VariantNames(ServedEngine& engine, std::string base_name, std::filesystem::path base,
               std::function<bool(const std::string&)> find_on_disk);

  const std::string& base_name() const noexcept { return base_name_; }
  /// The engine's name for a `model`: empty for the base, which an empty one is too.
  std::string variant_of(const std::string& model) const;
  bool known(const std::string& variant) const;

  /// Runs `f`, which uses `variant`; if the engine does not know it, looks for it on disk and runs
  /// `f` again. Throws ApiError(404) in vLLM's words if there is none.
  void with_variant(const std::string& variant, const std::function<void()>& f);
  [[noreturn]] static void fail_unknown(const std::string& model);

  /// Where a variant's files are; the base's for an empty name.
  std::filesystem::path directory_of(const std::string& variant) const;

  /// Model cards. Reads archives' headers the first time.
  Json base_card() const;
  Json card(const VariantStatus& status);
  /// An entry of /v1/deltas.
  Json status_json(const VariantStatus& status);

 private:
  struct Figures {
    std::filesystem::path path;
    std::string hash;
    int64_t created = 0;
    Json about;  // null if the archive could not be read
  };
  Figures figures(const VariantStatus& status);

  ServedEngine& engine_;
  const std::string base_name_;
  const std::filesystem::path base_;
  const std::function<bool(const std::string&)> find_on_disk_;
  const int64_t created_;
  std::mutex mutex_;
  std::map<std::string, Figures> figures_;
};

const char* state_name(VariantState state) noexcept;

}  // namespace deltacome::server
