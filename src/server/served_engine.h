// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deltacome/archive.h"
#include "deltacome/engine.h"

namespace deltacome::server {

/// What the server needs of an engine, so that tests can set another one in its place. Meaning,
/// errors and threads are Engine's.
class ServedEngine {
 public:
  virtual ~ServedEngine() = default;
  virtual uint64_t submit(EngineRequest request, Engine::EventHandler on_event) = 0;
  virtual void cancel(uint64_t request) = 0;
  virtual void start_load(const std::string& name, const std::filesystem::path& path,
                          const LoadOptions& options, Engine::DoneHandler done) = 0;
  virtual void start_unload(const std::string& name, UnloadMode mode, Engine::DoneHandler done) = 0;
  virtual void set_pinned(const std::string& name, bool pinned) = 0;
  virtual std::vector<VariantStatus> variants() const = 0;
  virtual std::vector<int32_t> encode(const std::string& variant, const std::string& text,
                                      bool add_special_tokens) const = 0;
  virtual std::string decode(const std::string& variant, const std::vector<int32_t>& tokens,
                             bool skip_special_tokens) const = 0;
  virtual std::string chat_prompt_json(const std::string& variant,
                                       std::string_view context_json) const = 0;
  virtual EngineStats stats() const = 0;
  virtual std::string device() const = 0;
  virtual int64_t max_context() const = 0;
  /// What an archive or adapter says of itself.
  virtual ArchiveInfo inspect(const std::filesystem::path& path) const = 0;
};

/// `engine` outlives it.
std::unique_ptr<ServedEngine> serve_engine(Engine& engine);

}  // namespace deltacome::server
