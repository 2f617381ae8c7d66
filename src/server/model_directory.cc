// SPDX-License-Identifier: Apache-2.0
#include "server/model_directory.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <future>
#include <vector>

#include "server/errors.h"

namespace deltacome::server {
namespace {

namespace fs = std::filesystem;

// The files that make a directory an archive or an adapter, and that a new version replaces.
constexpr const char* kConfigs[] = {"delta_config.json", "adapter_config.json"};
constexpr const char* kWeights[] = {"delta.safetensors", "adapter_model.safetensors"};
constexpr size_t kMaxEntries = 100'000;

}  // namespace

/// Empty text if the directory is no variant.
ModelDirectory::Stamp ModelDirectory::stamp_of(const fs::path& directory) {
  Stamp out;
  bool has_config = false, has_weights = false;
  const auto add = [&](const char* name, bool& has) {
    struct stat s = {};
    if (stat((directory / name).c_str(), &s) != 0 || !S_ISREG(s.st_mode)) return;
    has = true;
    out.text += fmt::format("{}:{}:{}:{}:{};", name, s.st_ino, s.st_size, s.st_mtim.tv_sec,
                            s.st_mtim.tv_nsec);
  };
  for (const char* name : kConfigs) add(name, has_config);
  for (const char* name : kWeights) add(name, has_weights);
  if (!has_config || !has_weights) out.text.clear();
  return out;
}

ModelDirectory::ModelDirectory(ServedEngine& engine, const fs::path& directory,
                               std::chrono::milliseconds interval)
    : engine_(engine), directory_(directory), allowed_({directory}), interval_(interval) {
  look();
  look();  // what is there has not just come
  thread_ = std::thread([this] { run(); });
}

ModelDirectory::~ModelDirectory() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return n_busy_ == 0; });
}

void ModelDirectory::run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, interval_, [this] { return stopping_; })) {
    lock.unlock();
    look();
    lock.lock();
  }
}

void ModelDirectory::look() {
  std::map<std::string, Stamp> present;
  std::error_code error;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with('.') || name.ends_with(".partial") || present.size() >= kMaxEntries)
      continue;
    const Stamp stamp = stamp_of(entry->path());
    if (!stamp.text.empty()) present.emplace(name, stamp);
  }
  if (error) return;  // not to be read now: nothing is known of what is gone
  struct Action {
    std::string name;
    Stamp stamp;
    bool replace;
  };
  std::vector<Action> actions;
  std::vector<std::string> gone;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, stamp] : present) {
      Known& known = known_[name];
      const bool settled = known.seen == stamp;
      known.seen = stamp;
      if (!settled || known.busy || known.registered == stamp) continue;
      actions.push_back({name, stamp, !known.registered.text.empty()});
    }
    for (auto known = known_.begin(); known != known_.end();) {
      if (present.contains(known->first) || known->second.busy) {
        ++known;
        continue;
      }
      if (!known->second.registered.text.empty()) gone.push_back(known->first);
      known = known_.erase(known);
    }
  }
  for (const Action& action : actions) register_now(action.name, action.stamp, action.replace);
  for (const std::string& name : gone) {
    try {
      engine_.start_unload(name, UnloadMode::kDrain, {});
      spdlog::info("variant \"{}\" has gone from the model directory", name);
    } catch (const Error&) {  // somebody has unloaded it already
    }
  }
}

void ModelDirectory::register_now(const std::string& name, const Stamp& stamp, bool replace) {
  const auto ended = [this, name, stamp](const Error* failure) {
    if (failure == nullptr) {
      spdlog::info("variant \"{}\" is registered from the model directory", name);
    } else {
      spdlog::warn("variant \"{}\" of the model directory: {}", name, failure->what());
    }
    // A fault is not met again until the files have changed.
    const std::lock_guard lock(mutex_);
    Known& known = known_[name];
    known.registered = stamp;
    known.busy = false;
    --n_busy_;
    wake_.notify_all();
  };
  {
    const std::lock_guard lock(mutex_);
    known_[name].busy = true;
    ++n_busy_;
  }
  try {
    check_variant_name(name, "name");
    const fs::path real = allowed_.resolve(name);
    engine_.start_load(name, real, {.replace = replace, .lazy = true}, ended);
  } catch (const Error& failure) {
    ended(&failure);
  } catch (const ApiError& failure) {
    const Error as_error(ErrorCode::kInvalidArgument, failure.what());
    ended(&as_error);
  }
}

bool ModelDirectory::find(const std::string& name) {
  check_variant_name(name, "model");
  if (name.starts_with('.') || name.ends_with(".partial")) return false;
  if (stamp_of(directory_ / name).text.empty()) return false;
  const fs::path real = allowed_.resolve(name);
  const auto outcome = std::make_shared<std::promise<std::optional<Error>>>();
  try {
    engine_.start_load(name, real, {.lazy = true}, [outcome](const Error* error) {
      outcome->set_value(error == nullptr ? std::optional<Error>() : *error);
    });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInvalidArgument) return true;  // another request was first
    throw;
  }
  if (const auto error = outcome->get_future().get()) throw Error(*error);
  return true;
}

}  // namespace deltacome::server
