// SPDX-License-Identifier: Apache-2.0
#include "compress/report_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>

namespace deltacome {
namespace {

/// "model.layers.12.mlp.up_proj.weight" -> 12; -1 outside the layers.
int64_t layer_of(const std::string& name) {
  const std::string mark = "layers.";
  const size_t at = name.find(mark);
  return at == std::string::npos ? -1 : std::strtoll(name.c_str() + at + mark.size(), nullptr, 10);
}

std::string code_of(const TensorInfo& tensor) {
  if (tensor.vector_dim > 0) return fmt::format("vector {}", tensor.vector_dim);
  if (tensor.tiers.empty()) return tensor.codec;
  std::string text;
  for (const TierInfo& tier : tensor.tiers)
    text += fmt::format("{}{}x{}/{}", text.empty() ? "" : " ", tier.rank, tier.v_bits, tier.u_bits);
  return text;
}

}  // namespace

ReportData report_data(const CompressReport& report, const AutoFindings& findings) {
  const ArchiveInfo& a = report.archive;
  ReportData out;
  out.title = fmt::format("{} against {}", a.finetuned_name, a.base_name);
  out.facts = {{"method", a.method},
               {"bits per projection weight", fmt::format("{:.4f}", a.bits_per_weight)},
               {"all-in bytes", fmt::format("{}", a.all_in_bytes)},
               {"of the fine-tune in bf16", fmt::format("{:.2f} %", 100 * a.ratio)},
               {"calibration tokens", fmt::format("{}", a.calibration_tokens)},
               {"seconds", fmt::format("{:.0f}", report.seconds)}};
  if (findings.held_back_kl >= 0)
    out.facts.push_back(
        {"KL on held-back calibration text", fmt::format("{:.5f}", findings.held_back_kl)});
  if (a.held_out) {
    out.facts.push_back(
        {fmt::format("KL on {}", a.held_out->file), fmt::format("{:.5f}", a.held_out->kl)});
    out.facts.push_back({"top-1 agreement there", fmt::format("{:.4f}", a.held_out->top1)});
  }
  out.spectra = findings.spectra;
  out.choices = findings.choices;
  for (const TensorInfo& tensor : a.tensors) {
    if (!tensor.kind.ends_with("_proj")) continue;
    out.matrices.push_back({layer_of(tensor.name), tensor.kind, tensor.bits_per_weight,
                            tensor.relative_error, code_of(tensor)});
    for (ReportData::Choice& choice : out.choices) {
      if (choice.kind != tensor.kind || choice.codec.find(tensor.codec) != std::string::npos)
        continue;
      choice.codec += (choice.codec.empty() ? "" : ", ") + tensor.codec;
    }
  }
  out.methods = findings.methods;
  const double weights =
      a.bits_per_weight > 0 ? 8 * static_cast<double>(a.projection_bytes) / a.bits_per_weight : 0;
  for (ReportData::MethodPoint& point : out.methods) {
    point.all_in_bytes = static_cast<double>(a.all_in_bytes - a.projection_bytes) +
                         point.bits_per_weight * weights / 8;
  }
  for (const DistillPoint& p : findings.curve)
    out.curve.push_back({p.step, p.seconds, p.training_kl, p.held_back_kl});
  out.notes = report.notes;
  return out;
}

std::vector<KindSummary> summarize(const ArchiveInfo& archive) {
  std::vector<KindSummary> kinds;
  std::map<std::string, double> bytes, weights;
  for (const TensorInfo& tensor : archive.tensors) {
    if (!tensor.kind.ends_with("_proj")) continue;
    auto at = std::find_if(kinds.begin(), kinds.end(),
                           [&](const KindSummary& k) { return k.kind == tensor.kind; });
    if (at == kinds.end())
      at = kinds.insert(kinds.end(), KindSummary{.kind = tensor.kind, .relative_error = 0});
    ++at->matrices;
    at->rank += static_cast<double>(tensor.rank);
    at->relative_error += tensor.relative_error;
    bytes[tensor.kind] += static_cast<double>(tensor.bytes);
    weights[tensor.kind] += 8 * static_cast<double>(tensor.bytes) / tensor.bits_per_weight;
  }
  for (KindSummary& kind : kinds) {
    kind.rank /= static_cast<double>(kind.matrices);
    kind.relative_error /= static_cast<double>(kind.matrices);
    kind.bits_per_weight = 8 * bytes[kind.kind] / weights[kind.kind];
  }
  return kinds;
}

}  // namespace deltacome
