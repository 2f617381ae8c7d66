// SPDX-License-Identifier: Apache-2.0
#include "compress/auto_compression.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "compress/codec.h"
#include "compress/fit.h"
#include "compress/options.h"
#include "core/check.h"
#include "core/process_memory.h"
#include "io/files.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

constexpr int64_t kTargets = 64;               // tokens of the fine-tune's prediction that are kept
constexpr int64_t kHeldBackTokens = 8192;      // of calibration text that nothing is trained on
constexpr int64_t kSensitivityTokens = 32768;  // of the sample of the Fisher information
constexpr int64_t kWeighedTokens = 8192;       // of held-back text that families are weighed on
constexpr double kLeastWeight = 0.3, kLargestWeight = 4;  // of a family, against its prediction

/// Plans over both families. What one kind alone costs is measured; that errors of tiers add up to
/// more than those of whole codes is not seen there (docs/quality.md), so their loss is also
/// raised.
struct Mix {
  const char* label;
  double tiers_weight;
};
constexpr Mix kMixes[] = {{"mixed", 1}, {"mixed, fewer tiers", 1.6}, {"mixed, few tiers", 2.5}};

/// A GPU has room for lm_head in f32 and the logits of a step: pieces would decode its delta again
/// and again.
HeadLimits head_limits(const CompressOptions& options) {
  if (!is_on_gpu(options)) return {};
  return {.logit_rows = 4096, .logit_elements = 1 << 28, .head_elements = int64_t{1} << 30};
}

std::string layer_part(const std::string& label, double bits, int64_t layer) {
  return fmt::format("{}-{:.4f}-layer-{:05}", label, bits, layer);
}

}  // namespace

AutoCompression::AutoCompression(AutoInput input)
    : in_(std::move(input)),
      backend_(in_.base.backend()),
      finetuned_(std::make_unique<Model>(backend_, in_.pair.finetuned, in_.pair.finetuned_config)) {
  finetuned_weights_ = projections_of(finetuned_->weights());
  base_weights_ = projections_of(in_.base.weights());
  finetuned_->on_layer_done(
      [this](int64_t layer) { release_layer(in_.pair.finetuned, in_.pair.tensors, layer); });
  for (size_t i = 0; i < in_.pair.tensors.size(); ++i)
    slots_[in_.pair.tensors[i].name] = static_cast<int>(i);
}

AutoCompression::~AutoCompression() = default;

std::map<std::string, CodedTensor> AutoCompression::run(double bits) {
  bits_ = bits;
  if (curves_.empty()) {
    split_text();
    inputs_ =
        std::make_unique<FinetunedInputs>(*finetuned_, in_.stream, training_.sequences, in_.given);
    measure_sensitivity();
    measure_spectra();
  }
  findings_.methods.clear();
  findings_.choices.clear();
  Coded coded;
  if (in_.options.codes == CodeFamily::kAuto) {
    coded = best_of_families();
  } else {
    const Plan single = plan_family("one family", in_.options.codes == CodeFamily::kLowRank);
    coded = std::move(code({single})[0]);
    findings_.held_back_kl = measure(single.label, coded);
  }
  if (in_.steps > 0) distil(coded, "final", true);
  findings_.methods.push_back({in_.steps > 0 ? "auto, distilled" : "auto", bits_of(coded), 0,
                               findings_.held_back_kl, true});
  return coded;
}

/// Either family alone, and plans over both that their measured effects make; the best of them on
/// held-back text. Only the best so far and the one being measured are in memory.
AutoCompression::Coded AutoCompression::best_of_families() {
  std::vector<Plan> plans{plan_family("tiers", true), plan_family("whole", false)};
  std::vector<Coded> families = code(plans);
  const double tiers_kl = measure(plans[0].label, families[0]);
  double best_kl = measure(plans[1].label, families[1]);
  const auto tiers_weights = weigh(plans[0], families[0]);
  const auto whole_weights = weigh(plans[1], families[1]);
  Coded best = std::move(families[tiers_kl <= best_kl ? 0 : 1]);
  best_kl = std::min(tiers_kl, best_kl);
  families.clear();
  for (const Mix& mix : kMixes) {
    for (MatrixCurve& curve : curves_) {
      const std::string kind = tensor_kind(curve.name);
      curve.low_rank_weight = tiers_weights.at(kind) * mix.tiers_weight;
      curve.whole_weight = whole_weights.at(kind);
    }
    Plan mixed = plan(mix.label);
    Coded coded = take_coded(mixed, plans);
    coded.merge(code({mixed})[0]);
    plans.push_back(std::move(mixed));
    const double kl = measure(mix.label, coded);
    if (kl >= best_kl) continue;
    best = std::move(coded);
    best_kl = kl;
  }
  findings_.held_back_kl = best_kl;
  return best;
}

/// What earlier plans have coded in the same format, from the work directory; `plan` keeps the
/// rest.
AutoCompression::Coded AutoCompression::take_coded(Plan& plan, const std::vector<Plan>& earlier) {
  Coded taken;
  for (const Plan& other : earlier) {
    std::set<int64_t> layers;
    std::set<std::string> names;
    for (const auto& [name, format] : other.formats) {
      const auto wanted = plan.formats.find(name);
      if (wanted == plan.formats.end() || wanted->second != format) continue;
      layers.insert(tensor_of(name).layer);
      names.insert(name);
      plan.formats.erase(wanted);
    }
    for (const int64_t layer : layers) {
      auto part = in_.work.read(layer_part(other.label, bits_, layer));
      if (!part)
        fail(ErrorCode::kIo, "{} of the unfinished archive has disappeared",
             layer_part(other.label, bits_, layer));
      for (CodedTensor& tensor : *part) {
        if (names.contains(tensor.name)) taken[tensor.name] = std::move(tensor);
      }
    }
  }
  return taken;
}

double AutoCompression::measure(const std::string& label, const Coded& coded) {
  const double kl = kl_of(coded);
  findings_.methods.push_back({label, bits_of(coded), 0, kl, false});
  return kl;
}

/// The last sequences are held back; the fine-tune says what it thinks of all that is needed.
void AutoCompression::split_text() {
  const auto& all = in_.sequences;
  DELTACOME_CHECK(!all.empty());
  size_t n_held = 0;
  int64_t tokens = 0;
  const int64_t most = std::min(kHeldBackTokens, count_tokens(all) / 8);
  while (n_held + 1 < all.size() && (n_held == 0 || tokens < most))
    tokens += static_cast<int64_t>(all[all.size() - ++n_held].size());
  training_.sequences.assign(all.begin(), all.end() - static_cast<int64_t>(n_held));
  held_back_.sequences.assign(all.end() - static_cast<int64_t>(n_held), all.end());
  if (n_held == 0) held_back_.sequences = training_.sequences;  // a single sequence is all there is
  const auto teach = [&](TaughtText& text, const char* stage) {
    const int64_t n = static_cast<int64_t>(text.sequences.size());
    text.targets = top_targets(
        *finetuned_, {}, in_.stream, text.sequences, kTargets, in_.pair.finetuned_config.vocab_size,
        [&](int64_t done) {
          in_.progress(stage, static_cast<double>(done) / static_cast<double>(n));
        },
        in_.given);
  };
  teach(held_back_, "the fine-tune's predictions, held-back text");
  if (in_.steps == 0) {
    TaughtText part = first_tokens({training_.sequences, {}}, kSensitivityTokens);
    teach(part, "the fine-tune's predictions");
    training_.targets = std::move(part.targets);  // of the first sequences
  } else {
    teach(training_, "the fine-tune's predictions");
  }
}

/// The KL of a small error e of an output is e F e^T / 2, F the Fisher information of the
/// prediction; with errors in no special direction tr(F) |e|^2 / (2 n_out). F by gradients of log p
/// of labels that are drawn from the prediction itself.
void AutoCompression::measure_sensitivity() {
  in_.progress("sensitivities", 0);
  DeltaWeights weights(in_.base, in_.stream, in_.pair, in_.outer, in_.given);
  std::map<int, double> squares;
  int64_t batch = 0;  // positions of a pass
  TrainingOps& ops = backend_.training();
  for (const ExpectedTensor& tensor : in_.pair.tensors) {
    if (tensor.kind == Kind::kProjection) use_finetuned(weights, slots_.at(tensor.name));
  }
  weights.on_gradient([&](int slot, const Tensor&, const Tensor& dy) {
    const Tensor sums = backend_.allocate(DType::kF32, {dy.rows()});
    std::vector<float> host(static_cast<size_t>(dy.rows()), 0);
    backend_.upload(in_.stream, std::as_bytes(std::span(host)), sums);
    ops.add_row_dots(in_.stream, dy, dy, sums);
    backend_.download(in_.stream, sums, std::as_writable_bytes(std::span(host)));
    double sum = 0;
    for (const float x : host) sum += x;
    // The pass gives gradients of a mean over the batch.
    squares[slot] += sum * static_cast<double>(batch * batch) / static_cast<double>(dy.cols());
  });
  BackwardPass pass(in_.base, in_.stream, weights, head_limits(in_.options));
  const TaughtText sample = first_tokens(training_, kSensitivityTokens);
  const std::vector<int32_t> labels = draw_labels(sample.targets, in_.options.seed);
  std::vector<float> roots = certainty_weights(sample);  // of what squares of gradients weigh
  for (float& w : roots) w = std::sqrt(w);
  const std::vector<int64_t> offsets = offsets_of(sample);
  const auto n_positions = static_cast<double>(offsets.back());
  for (const std::vector<size_t>& chosen : batches_of(sample, kStepTokens)) {
    const auto first = static_cast<size_t>(offsets[chosen.front()]);
    batch = offsets[chosen.back() + 1] - offsets[chosen.front()];
    std::vector<std::span<const int32_t>> sequences;
    for (const size_t i : chosen) sequences.emplace_back(sample.sequences[i]);
    const std::vector<float> certain(static_cast<size_t>(batch), 0);
    const auto part = [&](const auto& of) {
      return std::span(of).subspan(first, static_cast<size_t>(batch));
    };
    pass.run(sequences, {1, part(labels), certain, part(roots)}, true);
    in_.progress("sensitivities", static_cast<double>(offsets[chosen.back() + 1]) / n_positions);
  }
  for (const ExpectedTensor& tensor : in_.pair.tensors) {
    if (tensor.kind != Kind::kProjection) continue;
    MatrixCurve curve;
    curve.name = tensor.name;
    curve.shape = tensor.shape;
    curve.sensitivity = 0.5 * squares[slots_.at(tensor.name)] / n_positions;
    curves_.push_back(std::move(curve));
  }
}

void AutoCompression::measure_spectra() {
  std::map<std::string, std::vector<double>> energy;
  std::map<std::string, int64_t> n_of_kind;
  const double n_layers = static_cast<double>(in_.pair.finetuned_config.n_layers);
  const auto measure = [&](int64_t layer, LayerInput input, Tensor c) {
    in_.progress("spectra", static_cast<double>(layer) / n_layers);
    const int64_t n_in = c.rows();
    const InputFit fit(backend_, in_.stream, std::move(c), n_in);
    for (MatrixCurve& curve : curves_) {
      const std::string kind = tensor_kind(curve.name);
      if (tensor_of(curve.name).layer != layer || input_of(kind) != input) continue;
      const double sensitivity = curve.sensitivity;
      curve = measure_curve(backend_, in_.stream, curve.name, delta_of(curve.name), fit);
      curve.sensitivity = sensitivity;
      std::vector<double>& sum = energy[kind];
      sum.resize(std::max(sum.size(), curve.components.size()));
      double so_far = 0, total = 0;
      for (const double e : curve.components) total += e;
      for (size_t i = 0; i < curve.components.size() && total > 0; ++i)
        sum[i] += (so_far += curve.components[i]) / total;
      ++n_of_kind[kind];
    }
    release_free_memory();
  };
  inputs_->for_each([](int64_t) { return true; }, measure);
  for (auto& [kind, values] : energy) {
    for (double& v : values) v /= static_cast<double>(n_of_kind[kind]);
    findings_.spectra.push_back({kind, values});
  }
}

int64_t AutoCompression::budget_bytes() const {
  double weights = 0;
  for (const MatrixCurve& curve : curves_)
    weights += static_cast<double>(element_count(curve.shape));
  return static_cast<int64_t>(std::floor(bits_ * weights / 8));
}

double AutoCompression::bits_of(const Coded& coded) const {
  double bytes = 0, weights = 0;
  for (const MatrixCurve& curve : curves_) {
    weights += static_cast<double>(element_count(curve.shape));
    const auto it = coded.find(curve.name);
    if (it != coded.end()) bytes += static_cast<double>(it->second.blob.size());
  }
  return 8 * bytes / weights;
}

AutoCompression::Plan AutoCompression::plan(const std::string& label) {
  in_.progress("planning " + label, 0);
  const std::vector<Allocated> allocated = allocate(
      curves_, budget_bytes(), {.column_gains = in_.steps > 0, .rotation_seed = in_.rotation_seed});
  Plan out{label, {}, {}};
  for (size_t i = 0; i < curves_.size(); ++i) {
    out.losses[curves_[i].name] = allocated[i].loss;
    if (allocated[i].format) out.formats[curves_[i].name] = *allocated[i].format;
  }
  return out;
}

/// The whole budget on one family of codes.
AutoCompression::Plan AutoCompression::plan_family(const std::string& label, bool low_rank) {
  for (MatrixCurve& curve : curves_) {
    curve.low_rank_weight = low_rank ? 1 : 0;
    curve.whole_weight = low_rank ? 0 : 1;
  }
  return plan(label);
}

/// Codes several plans in one pass over the fine-tune; finished layers come from the work
/// directory.
std::vector<AutoCompression::Coded> AutoCompression::code(const std::vector<Plan>& plans) {
  std::vector<Coded> out(plans.size());
  const int64_t n_layers = in_.pair.finetuned_config.n_layers;
  std::set<std::pair<int64_t, size_t>> open;  // layers of plans
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    for (size_t p = 0; p < plans.size(); ++p) {
      auto done = in_.work.read(layer_part(plans[p].label, bits_, layer));
      if (!done)
        open.insert({layer, p});
      else
        for (CodedTensor& tensor : *done) out[p][tensor.name] = std::move(tensor);
    }
  }
  const auto is_open = [&](int64_t layer) {
    const auto first = open.lower_bound({layer, 0});
    return first != open.end() && first->first == layer;
  };
  std::vector<std::vector<CodedTensor>> fresh(plans.size());
  inputs_->for_each(is_open, [&](int64_t layer, LayerInput input, Tensor c) {
    const int64_t n_in = c.rows();
    InputFit fit(backend_, in_.stream, std::move(c), n_in);
    for (const bool rotated : {false, true}) {  // the input's C is rotated once
      for (size_t p = 0; p < plans.size(); ++p) {
        if (!open.contains({layer, p})) continue;
        for (const auto& [name, format] : plans[p].formats) {
          if (tensor_of(name).layer != layer || input_of(tensor_kind(name)) != input ||
              (format.codec == Codec::kVector) != rotated)
            continue;
          in_.progress(fmt::format("coding {} {}", plans[p].label, name),
                       static_cast<double>(layer) / static_cast<double>(n_layers));
          fresh[p].push_back(encode_fit(backend_, in_.stream, name, format, delta_of(name), fit));
          release_free_memory();
        }
      }
    }
    if (input != LayerInput::kDown) return;  // the last of the layer
    for (size_t p = 0; p < plans.size(); ++p) {
      if (!open.contains({layer, p})) continue;
      in_.work.write(layer_part(plans[p].label, bits_, layer), fresh[p]);
      for (CodedTensor& tensor : fresh[p]) out[p][tensor.name] = std::move(tensor);
      fresh[p].clear();
    }
  });
  return out;
}

/// W_ft - W_base, f64.
Tensor AutoCompression::delta_of(const std::string& name) {
  const Tensor d = backend_.allocate(DType::kF64, tensor_of(name).shape);
  const int slot = slots_.at(name);
  backend_.compression().subtract(in_.stream, finetuned_weights_.at(slot), base_weights_.at(slot),
                                  d);
  release_pages(in_.pair.finetuned.at(name).bytes);
  release_pages(in_.pair.base.at(name).bytes);
  return d;
}

double AutoCompression::kl_of(const Coded& coded) {
  DeltaWeights weights(in_.base, in_.stream, in_.pair, in_.outer, in_.given);
  for (const auto& [name, tensor] : coded) weights.use_delta(slots_.at(name), tensor);
  BackwardPass pass(in_.base, in_.stream, weights, head_limits(in_.options));
  return mean_kl(pass, held_back_, certainty_weights(held_back_));
}

/// The fine-tune with the matrices of one kind coded.
double AutoCompression::kl_of_kind(const Coded& coded, const std::string& kind) {
  DeltaWeights weights(in_.base, in_.stream, in_.pair, in_.outer, in_.given);
  for (const MatrixCurve& curve : curves_) {
    const int slot = slots_.at(curve.name);
    const auto it = coded.find(curve.name);
    if (tensor_kind(curve.name) != kind) {
      use_finetuned(weights, slot);
    } else if (it != coded.end()) {
      weights.use_delta(slot, it->second);
    }
  }
  BackwardPass pass(in_.base, in_.stream, weights, head_limits(in_.options));
  const TaughtText text = first_tokens(held_back_, kWeighedTokens);
  return mean_kl(pass, text, certainty_weights(text));
}

std::map<std::string, double> AutoCompression::weigh(const Plan& plan, const Coded& coded) {
  std::map<std::string, double> predicted, weights;
  for (const auto& [name, loss] : plan.losses) predicted[tensor_kind(name)] += loss;
  const bool is_tiers = findings_.choices.empty();
  for (const auto& [kind, loss] : predicted) {
    in_.progress(fmt::format("weighing {} of {}", plan.label, kind), 0);
    const double measured = kl_of_kind(coded, kind);
    weights[kind] = std::clamp(measured / std::max(loss, 1e-12), kLeastWeight, kLargestWeight);
    auto at = std::find_if(findings_.choices.begin(), findings_.choices.end(),
                           [&, k = kind](const ReportData::Choice& c) { return c.kind == k; });
    if (at == findings_.choices.end()) at = findings_.choices.insert(at, {kind, "", -1, -1});
    (is_tiers ? at->low_rank_kl : at->vector_kl) = measured;
  }
  return weights;
}

bool AutoCompression::distil_scales(Coded& coded) {
  if (in_.steps == 0) return false;
  split_text();
  distil(coded, "scales", false);
  return true;
}

void AutoCompression::distil(Coded& coded, const std::string& part, bool norms) {
  DeltaWeights weights(in_.base, in_.stream, in_.pair, in_.outer, in_.given);
  for (const auto& [name, tensor] : coded) weights.use_delta(slots_.at(name), tensor);
  weights.create_parameters();
  BackwardPass pass(in_.base, in_.stream, weights, head_limits(in_.options));
  in_.progress("distilling", 0);
  DistillState state;
  const std::string file = fmt::format("{}-{:.4f}-distillation", part, bits_);
  if (const auto saved = in_.work.read(file)) state = unpack_state(*saved);
  DistillOptions options{.steps = in_.steps, .seed = in_.options.seed};
  if (!norms) options.norm_rate = 0;
  distill(weights, pass, backend_, in_.stream, training_, held_back_, options, state,
          [&](const DistillState& now) {
            in_.progress(fmt::format("distilling, KL {:.5f}", now.best_kl),
                         static_cast<double>(now.step) / static_cast<double>(in_.steps));
            in_.work.write(file, pack_state(now));
          });
  for (auto& [name, tensor] : coded) tensor = weights.trained(slots_.at(name));
  for (const ExpectedTensor& tensor : in_.pair.tensors) {
    if (tensor.kind == Kind::kNorm)
      coded[tensor.name] = weights.trained_norm(slots_.at(tensor.name));
  }
  findings_.curve = state.curve;
  findings_.held_back_kl = state.best_kl;
}

}  // namespace deltacome
