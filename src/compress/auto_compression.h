// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/allocate.h"
#include "compress/checkpoints.h"
#include "compress/distill.h"
#include "compress/finetuned_inputs.h"
#include "compress/report.h"
#include "compress/work_directory.h"
#include "deltacome/compress.h"
#include "model/model.h"

namespace deltacome {

/// What the method `auto` works on.
struct AutoInput {
  const CompressOptions& options;
  int64_t steps = 0;  // of distillation; 0 = none
  const CheckpointPair& pair;
  const Model& base;
  Stream& stream;
  std::shared_ptr<DeviceVariant> outer;                // has the delta's embedding and head
  const std::vector<std::vector<int32_t>>& sequences;  // calibration text
  Tensor given;                                        // rows that their ids below 0 stand for
  uint64_t rotation_seed = 0;
  const WorkDirectory& work;
  std::function<void(const std::string& stage, double done)> progress;
};

/// What it found out on the way.
struct AutoFindings {
  std::vector<ReportData::Spectrum> spectra;
  std::vector<ReportData::Choice> choices;
  std::vector<ReportData::MethodPoint> methods;
  std::vector<DistillPoint> curve;
  double held_back_kl = -1;
};

/// Codes the projections of a fine-tune, and distils what is not a code:
///   1. what each output is worth: the Fisher information of the fine-tune's own predictions
///   2. spectra of all deltas under the inputs of the fine-tune
///   3. two plans within the whole budget, of tiers and of codes of the whole delta; both are coded
///   4. their measured effect on the model's output, kind by kind, weighs the families
///   5. the plan of least predicted KL over both; what it takes anew is coded
///   6. distillation of gains, singular values and norms
class AutoCompression {
 public:
  explicit AutoCompression(AutoInput input);
  ~AutoCompression();
  /// Projections and norms, by name. A projection that is missing has no delta.
  /// `bits`: the budget. Can be run again with another one.
  std::map<std::string, CodedTensor> run(double bits);
  /// Distillation of the scales of codes that have nothing else; false if no steps were asked for.
  bool distil_scales(std::map<std::string, CodedTensor>& coded);
  const AutoFindings& findings() const noexcept { return findings_; }

 private:
  using Formats = std::map<std::string, MatrixFormat>;
  using Coded = std::map<std::string, CodedTensor>;
  void split_text();
  void measure_sensitivity();
  void measure_spectra();
  struct Plan {
    std::string label;
    Formats formats;
    std::map<std::string, double> losses;  // predicted KL by matrix
  };
  Plan plan(const std::string& label);
  Plan plan_family(const std::string& label, bool low_rank);
  std::vector<Coded> code(const std::vector<Plan>& plans);
  /// What the measured KL of each kind is to the predicted one, with what distillation leaves of
  /// it.
  std::map<std::string, double> weigh(const Plan& plan, const Coded& coded);
  Coded best_of_families();
  Coded take_coded(Plan& plan, const std::vector<Plan>& earlier);
  double measure(const std::string& label, const Coded& coded);
  double kl_of(const Coded& coded);
  double kl_of_kind(const Coded& coded, const std::string& kind);
  void distil(Coded& coded, const std::string& part, bool norms);
  const ExpectedTensor& tensor_of(const std::string& name) const {
    return in_.pair.tensors[static_cast<size_t>(slots_.at(name))];
  }
  Tensor delta_of(const std::string& name);
  void use_finetuned(DeltaWeights& weights, int slot) const {
    weights.use_finetuned(slot, finetuned_weights_.at(slot));
  }
  int64_t budget_bytes() const;
  double bits_of(const Coded& coded) const;

  AutoInput in_;
  double bits_ = 1;
  Backend& backend_;
  std::unique_ptr<Model> finetuned_;
  std::map<int, Tensor> finetuned_weights_, base_weights_;  // projections by slot
  TaughtText training_, held_back_;
  std::map<std::string, int> slots_;
  std::vector<MatrixCurve> curves_;  // in model order
  std::unique_ptr<FinetunedInputs> inputs_;
  AutoFindings findings_;
};

}  // namespace deltacome
