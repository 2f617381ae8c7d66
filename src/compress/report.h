// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace deltacome {

/// What a compression measured, for people to read. An empty list stands for "not measured".
struct ReportData {
  /// A line of the summary: base, fine-tune, method, sizes, KL.
  struct Fact {
    std::string name, value;
  };
  /// How the delta of one kind of matrix is spread, mean over the layers.
  struct Spectrum {
    std::string kind;
    std::vector<double> energy;  // [rank] share of output energy in the first i + 1 components
  };
  /// One matrix as it is stored.
  struct LayerValue {
    int64_t layer = 0;  // negative: outside the layers (embedding, head)
    std::string kind;
    double bits = 0;    // stored bits per weight, everything included
    double error = -1;  // relative output error; negative = not measured
    std::string codec;
  };
  /// One method or mix that was tried on the whole model.
  struct MethodPoint {
    std::string method;
    double bits_per_weight = 0, all_in_bytes = 0, kl = 0;
    bool chosen = false;
  };
  /// A step of distillation.
  struct CurvePoint {
    int64_t step = 0;
    double seconds = 0;  // since the first step
    double training_kl = 0;
    double held_back_kl = -1;  // negative = not measured at this step
  };
  /// The codec of one kind of matrix, and the KL of the model with either at equal bytes.
  struct Choice {
    std::string kind, codec;
    double low_rank_kl = -1, vector_kl = -1;  // negative = not measured
  };

  std::string title;
  std::vector<Fact> facts;
  std::vector<Spectrum> spectra;
  std::vector<LayerValue> matrices;
  std::vector<MethodPoint> methods;
  std::vector<CurvePoint> curve;
  std::vector<Choice> choices;
  std::vector<std::string> notes;  // what the reader should know, one sentence each
};

/// A whole HTML document that needs nothing else: inline SVG and CSS, no script, no reference.
/// All texts of `data` are escaped, as names come from files.
std::string render_report(const ReportData& data);

/// Writes `directory`/report.html, whole or not at all; an older one is replaced, and the directory
/// is made if it is not there. Throws kIo.
void write_report(const std::filesystem::path& directory, const ReportData& data);

}  // namespace deltacome
