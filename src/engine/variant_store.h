// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "delta/variant_files.h"
#include "deltacome/engine.h"
#include "engine/text_assets.h"
#include "engine/vision_assets.h"
#include "model/model.h"

namespace deltacome {

/// One loaded version of a variant. Immutable.
struct VariantVersion {
  std::string content_hash;
  Variant variant;
  ModelConfig config;
  std::shared_ptr<const TextAssets> text;
  VariantVision vision;
  int64_t bytes = 0;
};

class VariantStore;
struct VariantEntry;

/// A request's claim on a name: accepted before an unload, so it will be served.
struct VariantUse {
  std::shared_ptr<VariantEntry> entry;  // null = the base
  uint64_t failures = 0;                // loads of it that had failed before
};

/// A version in use by a sequence: it stays in memory until this ends (E4). Move-only.
class VariantHold {
 public:
  VariantHold() = default;
  VariantHold(VariantHold&& other) noexcept = default;
  VariantHold& operator=(VariantHold&& other) noexcept;
  ~VariantHold();
  const VariantVersion* operator->() const noexcept { return version_.get(); }
  explicit operator bool() const noexcept { return version_ != nullptr; }

 private:
  friend class VariantStore;
  std::shared_ptr<VariantEntry> entry_;
  std::shared_ptr<const VariantVersion> version_;
};

/// The variants by name, on disk and, within a budget of bytes, in memory. One loader thread brings
/// them in, in the order in which they were asked for; the unused one that was not used for longest
/// goes first, pinned ones never. If all are in use, the least recently used stop taking new
/// sequences until the load has its room (E6), so that no stream of requests keeps a variant out.
/// Thread-safe; nothing here waits for a load but the destructor.
class VariantStore {
 public:
  using Done = std::function<void(const Error*)>;

  /// `on_change` is called (from any thread, holding nothing) when a waiting sequence may be able
  /// to go on. Backend rule: E3. `base_hash` is called by the loader before
  /// the first archive, and once: it reads the whole base.
  VariantStore(Backend& backend, const std::filesystem::path& base_directory,
               const ModelConfig& base_config, std::function<std::string()> base_hash,
               int64_t budget_bytes, TextCache& texts, VisionCache& visions,
               std::function<void()> on_change);
  /// Gives up loads that go on.
  ~VariantStore();

  /// See Engine. Faults of the call are thrown, those of the load come to `done`, on the loader's
  /// thread.
  void start_load(const std::string& name, const std::filesystem::path& path,
                  const LoadOptions& options, Done done);
  void start_unload(const std::string& name, UnloadMode mode, Done done);
  void set_pinned(const std::string& name, bool pinned);
  std::vector<VariantStatus> list() const;

  /// A request for `name` is accepted, ends. Throws kNotFound.
  VariantUse accept(const std::string& name);
  void finish(const VariantUse& use);

  /// For the engine thread: the current version, if it is in memory and takes new sequences.
  /// Otherwise asks for it. Throws the error of the load that this request waited for.
  VariantHold try_hold(const VariantUse& use);
  /// One more hold of the same version.
  VariantHold again(const VariantHold& hold);

  /// The text assets of a variant, from disk if it was never loaded.
  std::shared_ptr<const TextAssets> text(const std::string& name);

  /// How a variant takes pictures, from disk if it was never loaded. Throws kInvalidArgument if it
  /// takes none.
  PictureFormat picture_format(const std::string& name);

  struct Counters {
    int64_t bytes = 0, loads = 0, failed_loads = 0, evictions = 0;
  };
  Counters counters() const;

 private:
  friend class VariantHold;
  struct Job;
  using Lock = std::unique_lock<std::mutex>;

  void run_loader();
  void run(Job& job);
  std::shared_ptr<const VariantVersion> load(Job& job, VariantFiles& files);
  /// Waits until `bytes` fit, and takes them. Throws kOutOfMemory if they never will, kOverloaded
  /// if the job is given up.
  void reserve(Job& job, int64_t bytes);
  bool make_room(const Job& job, int64_t bytes);
  void check_given_up(const Job& job) const;
  void publish(Job& job, std::shared_ptr<const VariantVersion> version);
  void end_job(Job& job, const Error* error);
  void enqueue(std::shared_ptr<Job> job);

  VariantEntry& find(const std::string& name) const;
  void release(VariantEntry& entry, std::shared_ptr<const VariantVersion> version) noexcept;
  void drop_version(VariantEntry& entry, const VariantVersion* version);
  /// Takes the entry off the list; returns who is to be told.
  std::vector<Done> remove(VariantEntry& entry);
  void bury();

  Backend& backend_;
  std::unique_ptr<Stream> stream_;  // the loader's own
  BaseIdentity base_;
  std::function<std::string()> base_hash_;
  const int64_t budget_bytes_;
  TextCache& texts_;
  VisionCache& visions_;
  std::function<void()> on_change_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;  // a job, room, or the end
  std::map<std::string, std::shared_ptr<VariantEntry>> entries_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::vector<std::shared_ptr<const VariantVersion>> buried_;  // freed by the loader: it takes time
  int64_t used_bytes_ = 0;  // of versions in memory and reservations
  uint64_t clock_ = 0;      // orders uses
  Counters counters_;
  bool stopping_ = false;
  std::thread loader_;
};

}  // namespace deltacome
