// SPDX-License-Identifier: Apache-2.0
#include "archive_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli.h"
#include "text.h"

namespace deltacome::cli {
namespace {

using nlohmann::ordered_json;

std::string plan_of(const TensorInfo& tensor) {
  std::string plan = tensor.codec;
  for (const TierInfo& tier : tensor.tiers) {
    plan += fmt::format(" {}:{}/{}", tier.rank, tier.v_bits, tier.u_bits);
  }
  if (tensor.vector_dim > 0)
    plan += fmt::format(" {} ({:.3g} bit)", tensor.vector_dim, 8.0 / tensor.vector_dim);
  if (tensor.row_gain || tensor.column_gain) plan += " + gains";
  return plan;
}

/// Mean of the figures that were measured.
class Mean {
 public:
  void add(double value) {
    if (!is_measured(value)) return;
    sum_ += value;
    ++count_;
  }
  double value() const { return count_ == 0 ? -1 : sum_ / count_; }

 private:
  double sum_ = 0;
  int count_ = 0;
};

KindReport report_of(const ArchiveInfo& info, const std::string& kind) {
  KindReport report{.kind = kind, .plan = {}};
  Mean rank, error, energy, stable_rank;
  for (const TensorInfo& tensor : info.tensors) {
    if (tensor.kind != kind) continue;
    const std::string plan = plan_of(tensor);
    if (report.tensors++ == 0) report.plan = plan;
    if (report.plan != plan) report.plan = "mixed";
    int64_t weights = 1;
    for (const int64_t extent : tensor.shape) weights *= extent;
    report.bytes += tensor.bytes;
    report.weights += weights;
    rank.add(static_cast<double>(tensor.rank));
    error.add(tensor.relative_error);
    energy.add(tensor.energy);
    stable_rank.add(tensor.stable_rank);
  }
  report.rank = rank.value();
  report.relative_error = error.value();
  report.energy = energy.value();
  report.stable_rank = stable_rank.value();
  return report;
}

ordered_json to_json(const TensorInfo& tensor) {
  ordered_json tiers = ordered_json::array();
  for (const TierInfo& tier : tensor.tiers) {
    tiers.push_back({{"rank", tier.rank}, {"v_bits", tier.v_bits}, {"u_bits", tier.u_bits}});
  }
  ordered_json vector = nullptr;
  if (tensor.vector_dim > 0)
    vector = {{"dim", tensor.vector_dim}, {"bits", 8.0 / tensor.vector_dim}};
  ordered_json gains = ordered_json::array();
  if (tensor.row_gain) gains.push_back("row");
  if (tensor.column_gain) gains.push_back("column");
  return {{"name", tensor.name},
          {"kind", tensor.kind},
          {"codec", tensor.codec},
          {"shape", tensor.shape},
          {"bytes", tensor.bytes},
          {"bits_per_weight", tensor.bits_per_weight},
          {"rank", tensor.rank},
          {"tiers", tiers},
          {"vector", vector},
          {"gains", gains},
          {"relative_error", measured(tensor.relative_error)},
          {"energy", measured(tensor.energy)},
          {"stable_rank", measured(tensor.stable_rank)}};
}

}  // namespace

std::vector<KindReport> kinds_of(const ArchiveInfo& info) {
  std::vector<KindReport> reports;
  for (const TensorInfo& tensor : info.tensors) {
    const bool known = std::any_of(reports.begin(), reports.end(),
                                   [&](const KindReport& r) { return r.kind == tensor.kind; });
    if (!known) reports.push_back(report_of(info, tensor.kind));
  }
  return reports;
}

ordered_json to_json(const KindReport& kind) {
  return {{"kind", kind.kind},
          {"tensors", kind.tensors},
          {"plan", kind.plan},
          {"rank", kind.rank},
          {"bytes", kind.bytes},
          {"bits_per_weight", kind.bits_per_weight()},
          {"relative_error", measured(kind.relative_error)},
          {"energy", measured(kind.energy)},
          {"stable_rank", measured(kind.stable_rank)}};
}

ordered_json to_json(const ArchiveInfo& info) {
  ordered_json kinds = ordered_json::array();
  for (const KindReport& kind : kinds_of(info)) kinds.push_back(to_json(kind));
  ordered_json tensors = ordered_json::array();
  for (const TensorInfo& tensor : info.tensors) tensors.push_back(to_json(tensor));
  ordered_json held_out = nullptr;
  if (info.held_out) {
    held_out = {{"file", info.held_out->file},
                {"tokens", info.held_out->tokens},
                {"kl", measured(info.held_out->kl)},
                {"top1", measured(info.held_out->top1)}};
  }
  ordered_json finetuned_bytes = nullptr;
  if (info.finetuned_bytes >= 0) finetuned_bytes = info.finetuned_bytes;
  return {{"method", info.method},
          {"architecture", info.architecture},
          {"created_by", info.created_by},
          {"base", info.base_name},
          {"base_hash", info.base_hash},
          {"base_quantization", info.base_quantization},
          {"finetuned", info.finetuned_name},
          {"finetuned_hash", info.finetuned_hash},
          {"requested_bits", info.requested_bits},
          {"bits_per_weight", measured(info.bits_per_weight)},
          {"projection_bytes", info.projection_bytes},
          {"embedding_bytes", info.embedding_bytes},
          {"vision_bytes", info.vision_bytes},
          {"other_bytes", info.other_bytes},
          {"header_bytes", info.header_bytes},
          {"all_in_bytes", info.all_in_bytes},
          {"tokenizer_bytes", info.tokenizer_bytes},
          {"finetuned_bytes", finetuned_bytes},
          {"ratio", measured(info.ratio)},
          {"calibration",
           {{"files", info.calibration_files},
            {"tokens", info.calibration_tokens},
            {"sequence_length", info.calibration_sequence_length},
            {"seed", info.seed}}},
          {"held_out", held_out},
          {"kinds", kinds},
          {"tensors", tensors}};
}

std::string kinds_table(const ArchiveInfo& info) {
  Table table(
      {"kind", "tensors", "plan", "rank", "bits", "size", "rel. error", "energy", "stable rank"});
  for (const KindReport& kind : kinds_of(info)) {
    table.add({kind.kind, std::to_string(kind.tensors), kind.plan,
               kind.rank > 0 ? fmt::format("{:.4g}", kind.rank) : "-",
               fmt::format("{:.3f}", kind.bits_per_weight()), format_bytes(kind.bytes),
               format_figure(kind.relative_error), format_figure(kind.energy),
               format_figure(kind.stable_rank)});
  }
  return table.text();
}

std::string sizes_table(const ArchiveInfo& info) {
  Table table({"", "bytes", ""});
  const auto row = [&](const char* name, int64_t bytes) {
    table.add({name, std::to_string(bytes), format_bytes(bytes)});
  };
  row("projections", info.projection_bytes);
  row("embeddings and lm_head", info.embedding_bytes);
  if (info.vision_bytes > 0) row("vision tower and projector", info.vision_bytes);
  row("norms and biases", info.other_bytes);
  row("headers", info.header_bytes);
  row("all-in", info.all_in_bytes);
  row("tokenizer", info.tokenizer_bytes);
  if (info.finetuned_bytes < 0) return table.text();  // an adapter, whose base is not at hand
  row("fine-tune in bf16", info.finetuned_bytes);
  const std::string requested =
      info.requested_bits > 0 ? fmt::format(" ({:g} requested)", info.requested_bits) : "";
  return table.text() + fmt::format(
                            "  {:.4f} bits per projection weight{}, {:.2f} % of the "
                            "fine-tune\n",
                            info.bits_per_weight, requested, 100 * info.ratio);
}

std::string fidelity_lines(const ArchiveInfo& info) {
  if (info.method == "lora") return "the factors of a LoRA adapter, as they are\n";
  std::string out;
  if (info.calibration_tokens > 0) {
    out += fmt::format("calibrated on {} tokens in sequences of at most {} from {}, seed {}\n",
                       info.calibration_tokens, info.calibration_sequence_length,
                       one_line(fmt::format("{}", fmt::join(info.calibration_files, ", "))),
                       info.seed);
  } else {
    out += "not calibrated\n";
  }
  if (info.held_out) {
    out += fmt::format("on {} held-out tokens of {}: KL {}, top-1 agreement {}\n",
                       info.held_out->tokens, one_line(info.held_out->file),
                       format_figure(info.held_out->kl), format_figure(info.held_out->top1));
  }
  return out;
}

}  // namespace deltacome::cli
