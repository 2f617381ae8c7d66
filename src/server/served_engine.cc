// SPDX-License-Identifier: Apache-2.0
#include "server/served_engine.h"

namespace deltacome::server {
namespace {

class RealEngine final : public ServedEngine {
 public:
  explicit RealEngine(Engine& engine) : engine_(engine) {}

  uint64_t submit(EngineRequest request, Engine::EventHandler on_event) override {
    return engine_.submit(std::move(request), std::move(on_event));
  }
  void cancel(uint64_t request) override { engine_.cancel(request); }
  void start_load(const std::string& name, const std::filesystem::path& path,
                  const LoadOptions& options, Engine::DoneHandler done) override {
    engine_.start_load(name, path, options, std::move(done));
  }
  void start_unload(const std::string& name, UnloadMode mode, Engine::DoneHandler done) override {
    engine_.start_unload(name, mode, std::move(done));
  }
  void set_pinned(const std::string& name, bool pinned) override {
    engine_.set_pinned(name, pinned);
  }
  std::vector<VariantStatus> variants() const override { return engine_.variants(); }
  std::vector<int32_t> encode(const std::string& variant, const std::string& text,
                              bool add_special_tokens) const override {
    return engine_.encode(variant, text, add_special_tokens);
  }
  std::string decode(const std::string& variant, const std::vector<int32_t>& tokens,
                     bool skip_special_tokens) const override {
    return engine_.decode(variant, tokens, skip_special_tokens);
  }
  std::string chat_prompt_json(const std::string& variant,
                               std::string_view context_json) const override {
    return engine_.chat_prompt_json(variant, context_json);
  }
  EngineStats stats() const override { return engine_.stats(); }
  std::string device() const override { return engine_.device(); }
  int64_t max_context() const override { return engine_.max_context(); }
  ArchiveInfo inspect(const std::filesystem::path& path) const override {
    return inspect_archive(path);
  }

 private:
  Engine& engine_;
};

}  // namespace

std::unique_ptr<ServedEngine> serve_engine(Engine& engine) {
  return std::make_unique<RealEngine>(engine);
}

}  // namespace deltacome::server
