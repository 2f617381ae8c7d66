// SPDX-License-Identifier: Apache-2.0
#include "server/variant_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace deltacome::server {
namespace {

/// Figures that were not measured are negative in ArchiveInfo, and null here.
Json measured(double value) {
  return value < -1e-6 ? Json() : Json(value);
}

Json about(const ArchiveInfo& info) {
  Json out = {{"method", info.method},
              {"bits_per_weight", measured(info.bits_per_weight)},
              {"archive_bytes", info.all_in_bytes},
              {"finetuned_bytes", info.finetuned_bytes < 0 ? Json() : Json(info.finetuned_bytes)},
              {"ratio", measured(info.ratio)},
              {"finetuned", info.finetuned_name},
              {"kl", nullptr},
              {"top1", nullptr}};
  Json codecs = Json::array();
  for (const TensorInfo& tensor : info.tensors)
    if (std::find(codecs.begin(), codecs.end(), tensor.codec) == codecs.end())
      codecs.push_back(tensor.codec);
  out["codecs"] = std::move(codecs);
  if (info.held_out) {
    out["kl"] = info.held_out->kl;
    out["top1"] = info.held_out->top1;
  }
  return out;
}

Json model_card(const std::string& id, int64_t created, const std::string& root, const Json& parent,
                int64_t max_model_len) {
  const Json permission = {{"id", "modelperm-" + id},
                           {"object", "model_permission"},
                           {"created", created},
                           {"allow_create_engine", false},
                           {"allow_sampling", true},
                           {"allow_logprobs", true},
                           {"allow_search_indices", false},
                           {"allow_view", true},
                           {"allow_fine_tuning", false},
                           {"organization", "*"},
                           {"group", nullptr},
                           {"is_blocking", false}};
  return {{"id", id},
          {"object", "model"},
          {"created", created},
          {"owned_by", "deltacome"},
          {"root", root},
          {"parent", parent},
          {"max_model_len", max_model_len},
          {"permission", Json::array({permission})}};
}

}  // namespace

const char* state_name(VariantState state) noexcept {
  switch (state) {
    case VariantState::kOnDisk:
      return "on_disk";
    case VariantState::kLoading:
      return "loading";
    case VariantState::kReady:
      return "ready";
    case VariantState::kDraining:
      return "draining";
  }
  return "";
}

VariantNames::VariantNames(ServedEngine& engine, std::string base_name, std::filesystem::path base,
                           std::function<bool(const std::string&)> find_on_disk)
    : engine_(engine),
      base_name_(std::move(base_name)),
      base_(std::move(base)),
      find_on_disk_(std::move(find_on_disk)),
      created_(std::time(nullptr)) {}

std::string VariantNames::variant_of(const std::string& model) const {
  return model == base_name_ ? std::string() : model;
}

bool VariantNames::known(const std::string& variant) const {
  if (variant.empty()) return true;
  const std::vector<VariantStatus> all = engine_.variants();
  return std::any_of(all.begin(), all.end(),
                     [&](const VariantStatus& v) { return v.name == variant; });
}

std::filesystem::path VariantNames::directory_of(const std::string& variant) const {
  if (variant.empty()) return base_;
  for (const VariantStatus& status : engine_.variants())
    if (status.name == variant) return status.path;
  throw Error(ErrorCode::kNotFound, "unknown");
}

void VariantNames::fail_unknown(const std::string& model) {
  throw ApiError(404, fmt::format("The model `{}` does not exist.", model), "model");
}

void VariantNames::with_variant(const std::string& variant, const std::function<void()>& f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || variant.empty() || known(variant)) throw;
  }
  if (!find_on_disk_ || !find_on_disk_(variant)) fail_unknown(variant);
  f();
}

VariantNames::Figures VariantNames::figures(const VariantStatus& status) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = figures_.find(status.name);
    if (found != figures_.end() && found->second.path == status.path &&
        found->second.hash == status.content_hash)
      return found->second;
  }
  Figures out{status.path, status.content_hash, std::time(nullptr), {}};
  try {
    out.about = about(engine_.inspect(status.path));
  } catch (const Error&) {  // removed or replaced on disk; what is in memory goes on
  }
  const std::lock_guard lock(mutex_);
  if (figures_.size() > 100'000) figures_.clear();  // names come and go, this stays bounded
  Figures& kept = figures_[status.name];
  if (kept.created != 0 && kept.path == out.path) out.created = kept.created;
  kept = out;
  return out;
}

Json VariantNames::base_card() const {
  return model_card(base_name_, created_, base_.empty() ? base_name_ : base_.string(), nullptr,
                    engine_.max_context());
}

Json VariantNames::card(const VariantStatus& status) {
  const Figures known = figures(status);
  Json out = model_card(status.name, known.created, status.path.string(), base_name_,
                        engine_.max_context());
  out["delta"] = status_json(status);
  return out;
}

Json VariantNames::status_json(const VariantStatus& status) {
  Json out = {{"name", status.name},
              {"path", status.path.string()},
              {"state", state_name(status.state)},
              {"pinned", status.pinned},
              {"content_hash", status.content_hash},
              {"bytes", status.bytes},
              {"requests", status.requests},
              {"progress", nullptr},
              {"last_error", status.last_error.empty() ? Json() : Json(status.last_error)},
              {"about", figures(status).about}};
  if (status.state == VariantState::kLoading)
    out["progress"] = {{"loaded_bytes", status.loaded_bytes}, {"total_bytes", status.total_bytes}};
  return out;
}

}  // namespace deltacome::server
