// SPDX-License-Identifier: Apache-2.0
// The loader thread of VariantStore.
#include <sys/resource.h>

#include <new>
#include <tuple>

#include "core/check.h"
#include "engine/variant_entry.h"
#include "engine/variant_store.h"
#include "io/peft_adapter.h"

namespace deltacome {

// With as many threads as cores in a step, a loader of equal rank would take turns with them: it
// gets a fiftieth of a core then, and all of what steps leave idle. Linux gives each thread a nice
// value of its own, 0 being the calling one; where it is refused, loads are only less polite.
constexpr int kLoaderNice = 19;

void VariantStore::run_loader() {
  if (backend_.uses_host_cores()) setpriority(PRIO_PROCESS, 0, kLoaderNice);
  Lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty() || !buried_.empty(); });
    if (!buried_.empty()) {
      lock.unlock();
      bury();
      lock.lock();
    } else if (!jobs_.empty()) {
      const std::shared_ptr<Job> job = jobs_.front();
      lock.unlock();
      run(*job);
      lock.lock();
    } else {
      return;  // stopping, and every job has been told so
    }
  }
}

/// Frees what is not used any more. The loader does it, and not whoever let go of it, because
/// giving back gigabytes takes longer than a step.
void VariantStore::bury() {
  std::vector<std::shared_ptr<const VariantVersion>> dead;
  {
    const Lock lock(mutex_);
    dead.swap(buried_);
  }
}

void VariantStore::run(Job& job) {
  std::optional<Error> error;
  try {
    {
      const Lock lock(mutex_);
      check_given_up(job);
    }
    if (base_.content_hash.empty() && !is_peft_adapter(job.path)) base_.content_hash = base_hash_();
    VariantFiles files = VariantFiles::open(job.path, base_);
    std::shared_ptr<const VariantVersion> version;
    if (!job.options.lazy) version = load(job, files);
    publish(job, std::move(version));
  } catch (const Error& e) {
    error = e;
  } catch (const std::bad_alloc&) {
    error = Error(ErrorCode::kOutOfMemory,
                  fmt::format("variant \"{}\": the machine has no memory for it", job.entry->name));
  } catch (const std::exception& e) {
    error = Error(ErrorCode::kIo, fmt::format("variant \"{}\": {}", job.entry->name, e.what()));
  }
  end_job(job, error ? &*error : nullptr);
}

std::shared_ptr<const VariantVersion> VariantStore::load(Job& job, VariantFiles& files) {
  reserve(job, files.tensor_bytes());
  auto version = std::make_shared<VariantVersion>();
  const auto before_tensor = [&](int64_t loaded) {
    bury();
    const Lock lock(mutex_);
    check_given_up(job);
    job.entry->loaded_bytes = loaded;
  };
  version->content_hash = files.content_hash();
  version->config = files.config();
  version->variant = {files.load(backend_, *stream_, base_, before_tensor),
                      files.config().vocab_size};
  version->text =
      texts_.load(files.text_directory(), fmt::format("variant \"{}\"", job.entry->name));
  if (version->config.vision) {
    const std::filesystem::path& directory = files.vision_directory();
    version->vision = {
        {*version->config.vision, read_image_preprocessing(directory, *version->config.vision)},
        visions_.share(files.load_vision(backend_, *stream_, base_), version->config)};
  }
  version->bytes = version->variant.device->resident_bytes();
  // What the backend adds to the stored bytes is only known now.
  if (version->bytes > job.reserved) reserve(job, version->bytes - job.reserved);
  return version;
}

/// Requires the mutex.
void VariantStore::check_given_up(const Job& job) const {
  if (stopping_)
    fail(ErrorCode::kOverloaded, "variant \"{}\": the engine is stopping", job.entry->name);
  if (job.given_up)
    fail(ErrorCode::kOverloaded, "variant \"{}\" was unloaded while it was loaded",
         job.entry->name);
  if (job.on_demand && job.entry->requests == 0)
    fail(ErrorCode::kOverloaded, "variant \"{}\": no request needs it any more", job.entry->name);
}

void VariantStore::reserve(Job& job, int64_t bytes) {
  Lock lock(mutex_);
  job.entry->total_bytes = job.reserved + bytes;
  while (!make_room(job, bytes)) {
    wake_.wait(lock);
    check_given_up(job);
    lock.unlock();
    bury();
    lock.lock();
  }
  used_bytes_ += bytes;
  job.reserved += bytes;
}

/// True if `bytes` fit now. Else sees to it that they will.
bool VariantStore::make_room(const Job& job, int64_t bytes) {
  const auto rank = [](const VariantEntry& e) { return std::tuple(e.requests > 0, e.last_used); };
  while (used_bytes_ + bytes > budget_bytes_) {
    VariantEntry* victim = nullptr;
    for (const auto& [_, entry] : entries_) {
      if (entry == job.entry || entry->current == nullptr || entry->pinned) continue;
      if (entry->holds_of_current() > 0 || (entry->fresh && entry->requests > 0)) continue;
      if (victim == nullptr || rank(*entry) < rank(*victim)) victim = entry.get();
    }
    if (victim == nullptr) break;
    drop_version(*victim, victim->current.get());
    ++counters_.evictions;
  }
  if (used_bytes_ + bytes <= budget_bytes_) return true;

  int64_t fixed = job.reserved, leaving = 0;
  std::vector<VariantEntry*> in_use;
  for (const auto& [_, entry] : entries_) {
    for (const VariantEntry::Resident& r : entry->residents) {
      const bool current = r.version == entry->current;
      if (current && (entry->pinned || entry == job.entry)) {
        fixed += r.version->bytes;  // what a failed replacement must leave as it is, too
      } else if (!current || entry->closing || entry->draining) {
        leaving += r.version->bytes;
      } else if (!entry->fresh) {
        in_use.push_back(entry.get());
      }
    }
  }
  if (fixed + bytes > budget_bytes_) {
    fail(
        ErrorCode::kOutOfMemory,
        "variant \"{}\" needs {} bytes of memory; of the {} bytes for variants {} are pinned or in "
        "its own use",
        job.entry->name, bytes + job.reserved, budget_bytes_, fixed);
  }
  std::ranges::sort(in_use, {}, [](const VariantEntry* e) { return e->last_used; });
  for (VariantEntry* entry : in_use) {
    if (used_bytes_ - leaving + bytes <= budget_bytes_) break;
    entry->closing = true;
    leaving += entry->current->bytes;
  }
  return false;
}

/// The only place where a load changes what others see (E9).
void VariantStore::publish(Job& job, std::shared_ptr<const VariantVersion> version) {
  const Lock lock(mutex_);
  check_given_up(job);
  VariantEntry& entry = *job.entry;
  const VariantVersion* old = entry.current.get();
  if (version != nullptr) {
    used_bytes_ += version->bytes - job.reserved;
    job.reserved = 0;
    entry.residents.push_back({version, 0});
    entry.current = version;
    entry.fresh = true;
    entry.last_used = ++clock_;
    ++counters_.loads;
  } else {
    entry.current.reset();  // lazy replacement: the next request loads it
  }
  if (old != nullptr && entry.resident(old)->holds == 0) drop_version(entry, old);
  if (!job.on_demand) {
    entry.path = job.path;
    entry.pinned = entry.pinned || job.options.pinned;
  }
  entry.registered = true;
  entry.last_error.reset();
}

void VariantStore::end_job(Job& job, const Error* error) {
  std::vector<Done> told;
  {
    const Lock lock(mutex_);
    VariantEntry& entry = *job.entry;
    used_bytes_ -= job.reserved;
    jobs_.pop_front();
    --entry.jobs;
    entry.loaded_bytes = entry.total_bytes = 0;
    for (const auto& [_, each] : entries_) each->closing = false;
    if (error != nullptr) {
      if (!job.given_up) ++counters_.failed_loads;
      entry.last_error = *error;
      // A replacement that failed is nothing to those who wait for the version that is there.
      if (job.on_demand || !entry.registered) ++entry.failures;
    }
    if (!entry.registered && entry.jobs == 0) {
      entries_.erase(entry.name);  // it never was; requests that trusted in it are told so
      entry.draining = true;
    }
    if (entry.draining && entry.requests == 0 && entry.jobs == 0) told = remove(entry);
  }
  if (job.done) job.done(error);
  for (const Done& each : told) each(nullptr);
  wake_.notify_all();
  on_change_();
}

}  // namespace deltacome
