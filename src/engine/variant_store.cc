// SPDX-License-Identifier: Apache-2.0
#include "engine/variant_store.h"

#include "core/check.h"
#include "engine/variant_entry.h"
#include "io/peft_adapter.h"

namespace deltacome {

VariantHold& VariantHold::operator=(VariantHold&& other) noexcept {
  if (this != &other) {
    if (version_ != nullptr) entry_->store->release(*entry_, std::move(version_));
    entry_ = std::move(other.entry_);
    version_ = std::move(other.version_);
  }
  return *this;
}

VariantHold::~VariantHold() {
  if (version_ != nullptr) entry_->store->release(*entry_, std::move(version_));
}

VariantStore::VariantStore(Backend& backend, const std::filesystem::path& base_directory,
                           const ModelConfig& base_config, std::function<std::string()> base_hash,
                           int64_t budget_bytes, TextCache& texts, VisionCache& visions,
                           std::function<void()> on_change)
    : backend_(backend),
      stream_(backend.create_stream()),
      base_{base_directory, {}, base_config},
      base_hash_(std::move(base_hash)),
      budget_bytes_(budget_bytes),
      texts_(texts),
      visions_(visions),
      on_change_(std::move(on_change)),
      loader_([this] { run_loader(); }) {}

VariantStore::~VariantStore() {
  {
    const Lock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  loader_.join();
}

VariantEntry& VariantStore::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end())
    fail(ErrorCode::kNotFound, "there is no variant \"{}\"; it was not loaded", name);
  return *found->second;
}

void VariantStore::start_load(const std::string& name, const std::filesystem::path& path,
                              const LoadOptions& options, Done done) {
  if (name.empty()) fail(ErrorCode::kInvalidArgument, "a variant needs a name; \"\" is the base");
  const Lock lock(mutex_);
  if (stopping_) fail(ErrorCode::kOverloaded, "variant \"{}\": the engine is stopping", name);
  std::shared_ptr<VariantEntry>& entry = entries_[name];
  if (entry != nullptr && entry->draining)
    fail(ErrorCode::kOverloaded, "variant \"{}\" is being unloaded; try again when it is gone",
         name);
  if (entry != nullptr && !options.replace) {
    fail(ErrorCode::kInvalidArgument,
         "variant \"{}\" has been loaded already, from {}; ask for a replacement to change it",
         name, entry->path.string());
  }
  if (entry == nullptr) {
    entry = std::make_shared<VariantEntry>();
    entry->store = this;
    entry->name = name;
    entry->path = path;
  }
  enqueue(std::make_shared<Job>(
      Job{.entry = entry, .path = path, .options = options, .done = std::move(done)}));
}

void VariantStore::enqueue(std::shared_ptr<Job> job) {
  ++job->entry->jobs;
  jobs_.push_back(std::move(job));
  wake_.notify_all();
}

void VariantStore::start_unload(const std::string& name, UnloadMode mode, Done done) {
  std::vector<Done> told;
  {
    const Lock lock(mutex_);
    VariantEntry& entry = find(name);
    if (mode == UnloadMode::kRefuse && (entry.requests > 0 || entry.jobs > 0)) {
      fail(ErrorCode::kInvalidArgument,
           "variant \"{}\" is in use: {} requests and {} loads of it go on, expected none", name,
           entry.requests, entry.jobs);
    }
    entry.draining = true;
    if (done) entry.on_removed.push_back(std::move(done));
    for (const std::shared_ptr<Job>& job : jobs_)
      job->given_up |= job->entry.get() == &entry && !job->on_demand;
    if (entry.requests == 0 && entry.jobs == 0) told = remove(entry);
  }
  wake_.notify_all();
  for (const Done& each : told) each(nullptr);
}

std::vector<VariantStore::Done> VariantStore::remove(VariantEntry& entry) {
  const std::shared_ptr<VariantEntry> kept = entry.shared_from_this();
  if (entry.current != nullptr) drop_version(entry, entry.current.get());
  const auto listed = entries_.find(entry.name);  // another one may have taken the name
  if (listed != entries_.end() && listed->second == kept) entries_.erase(listed);
  wake_.notify_all();
  return std::move(entry.on_removed);
}

void VariantStore::set_pinned(const std::string& name, bool pinned) {
  {
    const Lock lock(mutex_);
    VariantEntry& entry = find(name);
    entry.pinned = pinned;
    if (pinned && entry.current == nullptr && entry.jobs == 0 && !entry.draining) {
      enqueue(std::make_shared<Job>(Job{.entry = entry.shared_from_this(),
                                        .path = entry.path,
                                        .options = {.pinned = true, .replace = true},
                                        .done = {}}));
    }
  }
  wake_.notify_all();
}

std::vector<VariantStatus> VariantStore::list() const {
  const Lock lock(mutex_);
  std::vector<VariantStatus> out;
  for (const auto& [name, entry] : entries_) {
    VariantStatus status{.name = name, .path = entry->path, .pinned = entry->pinned};
    status.state = entry->draining             ? VariantState::kDraining
                   : entry->current != nullptr ? VariantState::kReady
                   : entry->jobs > 0           ? VariantState::kLoading
                                               : VariantState::kOnDisk;
    if (entry->current != nullptr) status.content_hash = entry->current->content_hash;
    for (const VariantEntry::Resident& r : entry->residents) status.bytes += r.version->bytes;
    status.requests = entry->requests;
    if (entry->jobs > 0) {
      status.loaded_bytes = entry->loaded_bytes;
      status.total_bytes = entry->total_bytes;
    }
    if (entry->last_error) status.last_error = entry->last_error->what();
    out.push_back(std::move(status));
  }
  return out;
}

VariantUse VariantStore::accept(const std::string& name) {
  if (name.empty()) return {};
  const Lock lock(mutex_);
  VariantEntry& entry = find(name);
  if (entry.draining) fail(ErrorCode::kNotFound, "variant \"{}\" is being unloaded", name);
  ++entry.requests;
  return {entry.shared_from_this(), entry.failures};
}

void VariantStore::finish(const VariantUse& use) {
  if (use.entry == nullptr) return;
  std::vector<Done> told;
  {
    const Lock lock(mutex_);
    VariantEntry& entry = *use.entry;
    if (--entry.requests == 0 && entry.draining && entry.jobs == 0) told = remove(entry);
  }
  wake_.notify_all();
  for (const Done& each : told) each(nullptr);
}

VariantHold VariantStore::try_hold(const VariantUse& use) {
  Lock lock(mutex_);
  VariantEntry& entry = *use.entry;
  VariantHold hold;
  if (entry.current != nullptr) {
    if (entry.closing) return hold;
    hold.entry_ = use.entry;
    hold.version_ = entry.current;
    ++entry.resident(entry.current.get())->holds;
    entry.last_used = ++clock_;
    const bool was_fresh = std::exchange(entry.fresh, false);
    lock.unlock();
    if (was_fresh) wake_.notify_all();  // a load that waits for room may now ask for it to leave
    return hold;
  }
  if (entry.failures > use.failures) throw Error(*entry.last_error);
  if (entry.jobs == 0 && !stopping_) {
    enqueue(std::make_shared<Job>(Job{.entry = use.entry,
                                      .path = entry.path,
                                      .options = {.replace = true},
                                      .on_demand = true,
                                      .done = {}}));
  }
  return hold;
}

VariantHold VariantStore::again(const VariantHold& hold) {
  VariantHold other;
  if (!hold) return other;
  const Lock lock(mutex_);
  ++hold.entry_->resident(hold.version_.get())->holds;
  other.entry_ = hold.entry_;
  other.version_ = hold.version_;
  return other;
}

void VariantStore::release(VariantEntry& entry,
                           std::shared_ptr<const VariantVersion> version) noexcept {
  {
    const Lock lock(mutex_);
    const VariantVersion* const which = version.get();
    version.reset();  // before others may drop it: the last reference is the loader's to free
    entry.last_used = ++clock_;
    if (--entry.resident(which)->holds == 0 && entry.current.get() != which)
      drop_version(entry, which);
  }
  wake_.notify_all();
}

void VariantStore::drop_version(VariantEntry& entry, const VariantVersion* version) {
  const auto found = entry.resident(version);
  DELTACOME_CHECK(found != entry.residents.end() && found->holds == 0);
  if (entry.current.get() == version) entry.current.reset();
  used_bytes_ -= version->bytes;
  buried_.push_back(std::move(found->version));
  entry.residents.erase(found);
}

std::shared_ptr<const TextAssets> VariantStore::text(const std::string& name) {
  std::filesystem::path path;
  {
    const Lock lock(mutex_);
    const VariantEntry& entry = find(name);
    if (entry.current != nullptr) return entry.current->text;
    path = entry.path;
  }
  std::error_code ignored;
  const bool own = std::filesystem::exists(path / "tokenizer.json", ignored);
  return texts_.load(own ? path : base_.directory, fmt::format("variant \"{}\"", name));
}

PictureFormat VariantStore::picture_format(const std::string& name) {
  std::filesystem::path path;
  {
    const Lock lock(mutex_);
    const VariantEntry& entry = find(name);
    if (entry.current != nullptr && entry.current->vision.tensors != nullptr)
      return entry.current->vision.format;
    path = entry.path;
  }
  if (is_peft_adapter(path)) path = base_.directory;
  const ModelConfig config = read_model_config(path);
  if (!config.vision) {
    fail(ErrorCode::kInvalidArgument, "variant \"{}\" takes no pictures: it has no vision tower",
         name);
  }
  return {*config.vision, read_image_preprocessing(path, *config.vision)};
}

VariantStore::Counters VariantStore::counters() const {
  const Lock lock(mutex_);
  Counters out = counters_;
  out.bytes = used_bytes_;
  return out;
}

}  // namespace deltacome
