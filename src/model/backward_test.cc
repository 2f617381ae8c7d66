// SPDX-License-Identifier: Apache-2.0
#include "model/backward.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <numeric>

#include "model/teacher.h"
#include "model/test_support.h"

namespace deltacome {
namespace {

using testing::TinyModel;

/// All weights of a model in f32, each with a gradient. What is valid until the next call is
/// overwritten by the next call.
class PlainWeights final : public TrainedWeights {
 public:
  struct Parameter {
    std::vector<float> host;
    Tensor value, gradient;
  };

  explicit PlainWeights(const TinyModel& tiny)
      : tiny_(tiny), ops_(tiny.backend->training()), weights_(tiny.model.weights()) {
    for (const LayerWeights& layer : weights_.layers) {
      for (const Weight* w : {&layer.input_norm, &layer.post_norm, &layer.q_norm, &layer.k_norm})
        add(*w);
      for (const LinearWeights* w :
           {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
        add(w->weight);
        add(w->bias);
      }
    }
    add(weights_.final_norm);
    add(weights_.head);
  }

  Tensor projection(const LinearWeights& w) override {
    return copy(parameters_.at(w.weight.slot).value, projection_);
  }
  Tensor bias(const LinearWeights& w) override {
    return w.bias.tensor.empty() ? Tensor{} : parameters_.at(w.bias.slot).value;
  }
  Tensor norm(const Weight& w) override { return parameters_.at(w.slot).value; }
  Tensor norm_gradient(const Weight& w) override { return parameters_.at(w.slot).gradient; }
  Tensor head_rows(int64_t first, int64_t count) override {
    return copy(parameters_.at(weights_.head.slot).value.slice(first, count), head_);
  }
  int64_t vocab_size() override { return weights_.head.tensor.rows(); }
  void embed(Stream& stream, std::span<const int32_t> ids, const Tensor& y) override {
    const VariantSegment base{nullptr, y.rows()};
    const auto plan = tiny_.backend->plan_variants({&base, 1});
    tiny_.backend->embed(stream, *plan, weights_.embedding.slot, ids, weights_.embedding.tensor, y);
  }
  void projection_gradient(const LinearWeights& w, const Tensor& x, const Tensor& dy) override {
    ops_.matmul(*tiny_.stream, dy, true, x, false, 1, parameters_.at(w.weight.slot).gradient);
  }

  void set(int slot, const std::vector<float>& values) {
    tiny_.backend->upload(*tiny_.stream, std::as_bytes(std::span(values)),
                          parameters_.at(slot).value);
  }
  const Parameter& at(int slot) const { return parameters_.at(slot); }
  std::vector<float> gradient(int slot) const {
    return tiny_.download(parameters_.at(slot).gradient);
  }

 private:
  void add(const Weight& w) {
    if (w.tensor.empty()) return;
    Parameter p;
    p.host = tiny_.download(w.tensor);
    p.value = tiny_.backend->allocate(DType::kF32, w.tensor.shape);
    p.gradient = tiny_.backend->allocate(DType::kF32, w.tensor.shape);
    const std::vector<float> zeros(p.host.size());
    tiny_.backend->upload(*tiny_.stream, std::as_bytes(std::span(p.host)), p.value);
    tiny_.backend->upload(*tiny_.stream, std::as_bytes(std::span(zeros)), p.gradient);
    parameters_[w.slot] = std::move(p);
  }
  Tensor copy(const Tensor& x, ScratchTensor& to) {
    const Tensor out = to.take(*tiny_.backend, x.shape);
    ops_.compose(*tiny_.stream, x, {}, {}, {}, out);
    return out;
  }

  const TinyModel& tiny_;
  TrainingOps& ops_;
  const ModelWeights& weights_;
  std::map<int, Parameter> parameters_;  // by slot
  ScratchTensor projection_, head_;
};

/// What a student is asked to learn, and the pass that asks.
class BackwardPassTest : public ::testing::TestWithParam<const char*> {
 protected:
  TopTargets targets(const Variant& teacher, int64_t k) const {
    return top_targets(tiny_.model, teacher, *tiny_.stream, sequences_, k);
  }
  double run(BackwardPass& pass, const TopTargets& t, bool backward) const {
    const std::vector<std::span<const int32_t>> views(sequences_.begin(), sequences_.end());
    return pass.run(views, {t.k, t.ids, t.log_p, position_weights_}, backward);
  }
  /// Mean of weight * KL(p || q) in float64, q = the base by Model::forward.
  double reference_loss(const TopTargets& t) const {
    const auto width = static_cast<size_t>(tiny_.model.config().vocab_size);
    const std::vector<float> logits = tiny_.logits({}, sequences_);
    const size_t n = logits.size() / width, k = static_cast<size_t>(t.k);
    double loss = 0;
    for (size_t r = 0; r < n; ++r) {
      const auto log_q = testing::log_softmax(std::span(logits).subspan(r * width, width));
      const auto weight = static_cast<double>(position_weights_[r]);
      double p_rest = 1, q_rest = 1;
      for (size_t i = r * k; i < (r + 1) * k; ++i) {
        const double log_p = static_cast<double>(t.log_p[i]);
        const double lq = log_q[static_cast<size_t>(t.ids[i])];
        loss += weight * std::exp(log_p) * (log_p - lq);
        p_rest -= std::exp(log_p);
        q_rest -= std::exp(lq);
      }
      if (k < width) loss += weight * p_rest * std::log(p_rest / q_rest);
    }
    return loss / static_cast<double>(n);
  }

  TinyModel tiny_{GetParam()};
  PlainWeights weights_{tiny_};
  BackwardPass pass_{tiny_.model, *tiny_.stream, weights_};
  /// Of different lengths, longer and shorter than mistral's window of 16.
  std::vector<std::vector<int32_t>> sequences_ = tiny_.random_sequences({41, 1, 23, 7});
  std::vector<float> position_weights_ = [] {  // 0.5, 0.75, ... 1.5, of mean 1 but for the rest
    std::vector<float> out(72);
    for (size_t i = 0; i < out.size(); ++i) out[i] = 0.5f + 0.25f * static_cast<float>(i % 5);
    return out;
  }();
};

TEST_P(BackwardPassTest, LossIsThatOfTheModelsOwnLogits) {
  // KL has no first-order term at its minimum: that of a model with itself is what is left of
  // log_p's rounding, 2^-24 sum p |log p| < 2^-24 log 300, and of the sum of p.
  EXPECT_LT(run(pass_, targets({}, 300), false), 0x1p-24 * std::log(300.0) * 2);
  for (const int64_t k : {1, 20, 300}) {
    const TopTargets t = targets(tiny_.tuned, k);
    // A row's loss has the gradient q - p, of a 1-norm of at most 2. Logits are of size 4, and 4
    // ulp of that are allowed for the order of sums: 2 * 4 * 2^-22.
    const double want = reference_loss(t);
    EXPECT_NEAR(run(pass_, t, false), want, 0x1p-19) << "k = " << k;
    EXPECT_GT(want, 0.1) << "too easy";
  }
}

/// f'(0) by central differences of steps h and h / 2 with the term of h^2 eliminated (Richardson),
/// which leaves h^4 / 480 of the fifth derivative.
double difference(const std::function<double(double)>& f, double h) {
  const double coarse = (f(h) - f(-h)) / (2 * h), fine = (f(h / 2) - f(-h / 2)) / h;
  return (4 * fine - coarse) / 3;
}

std::vector<double> doubles(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

TEST_P(BackwardPassTest, GradientsAreDifferencesOfTheLoss) {
  const TopTargets t = targets(tiny_.tuned, 20);
  run(pass_, t, true);
  // `direction` is made as long as the weights. The derivative is compared with the size that it
  // has along the gradient, or, in a random direction, its standard deviation.
  const auto check = [&](const Weight& w, std::vector<double> direction, double h, bool random) {
    const std::vector<double> at = doubles(weights_.at(w.slot).host);
    const std::vector<double> gradient = doubles(weights_.gradient(w.slot));
    const double norm = std::sqrt(dot(at, at)), length = std::sqrt(dot(direction, direction));
    for (double& v : direction) v *= norm / length;
    const double size = norm * std::sqrt(dot(gradient, gradient)) /
                        (random ? std::sqrt(static_cast<double>(at.size())) : 1);
    const auto loss_at = [&](double s) {
      std::vector<float> moved(at.size());
      for (size_t i = 0; i < at.size(); ++i)
        moved[i] = static_cast<float>(at[i] + s * direction[i]);
      weights_.set(w.slot, moved);
      return run(pass_, t, false);
    };
    EXPECT_NEAR(dot(direction, gradient), difference(loss_at, h), 1e-3 * size)
        << "slot " << w.slot << (random ? ", a random direction" : ", along the gradient");
    EXPECT_GT(size, 1e-3) << "too small to see, slot " << w.slot;
    weights_.set(w.slot, weights_.at(w.slot).host);
  };
  const ModelWeights& all = tiny_.model.weights();
  std::vector<const Weight*> checked{&all.final_norm};
  for (const LayerWeights* layer : {&all.layers.front(), &all.layers.back()}) {
    checked.insert(checked.end(),
                   {&layer->input_norm, &layer->q.weight, &layer->k.weight, &layer->v.weight,
                    &layer->q_norm, &layer->k_norm, &layer->o.weight, &layer->post_norm,
                    &layer->gate.weight, &layer->up.weight, &layer->down.weight});
  }
  // At these steps rounding (some 3e-8 / h, of derivatives of 0.01 to 3) and truncation are about
  // the same: measured, both are below 4e-4 of `size`, a tenth of that in the median. The loss
  // bends most along its gradient.
  std::mt19937 rng(3);
  std::normal_distribution<double> normal;
  for (const Weight* w : checked) {
    if (w->tensor.empty()) continue;
    std::vector<double> direction = doubles(weights_.gradient(w->slot));
    check(*w, direction, 0.002, false);
    for (int i = 0; i < 2; ++i) {
      for (double& v : direction) v = normal(rng);
      check(*w, direction, 0.01, true);
    }
  }
}

TEST_P(BackwardPassTest, GradientsAreAddedAndOnlyIfAskedFor) {
  const TopTargets t = targets(tiny_.tuned, 20);
  const ModelWeights& all = tiny_.model.weights();
  std::vector<int> slots{all.final_norm.slot};
  for (const LayerWeights& layer : all.layers)
    slots.insert(slots.end(), {layer.input_norm.slot, layer.post_norm.slot, layer.q.weight.slot});
  if (tiny_.model.config().qk_norm) slots.push_back(all.layers.front().q_norm.slot);
  run(pass_, t, false);
  for (const int slot : slots) {
    for (const float g : weights_.gradient(slot)) ASSERT_EQ(g, 0);
  }
  run(pass_, t, true);
  std::map<int, std::vector<float>> once;
  for (const int slot : slots) once[slot] = weights_.gradient(slot);
  run(pass_, t, true);
  for (const int slot : slots) {
    const std::vector<float> twice = weights_.gradient(slot);
    float largest = 0;
    for (const float g : twice) largest = std::max(largest, std::abs(g));
    EXPECT_GT(largest, 0);
    // The second sum starts from the first: a rounding for each of at most 72 * 4 terms (q_norm's).
    for (size_t i = 0; i < twice.size(); ++i)
      ASSERT_NEAR(twice[i], 2 * once[slot][i], 288 * 0x1p-24f * largest) << slot;
  }
}

TEST_P(BackwardPassTest, PiecesOfTheHeadAndOtherBatchesBetweenChangeNothing) {
  const TopTargets t = targets(tiny_.tuned, 20);
  const double loss = run(pass_, t, true);
  const int slot = tiny_.model.weights().layers.front().down.weight.slot;
  const std::vector<double> want = doubles(weights_.gradient(slot));
  for (const int64_t head_rows : {1, 7, 128, 300}) {  // 300: whole, only its logits in pieces
    PlainWeights weights(tiny_);
    BackwardPass pass(
        tiny_.model, *tiny_.stream, weights,
        {.logit_rows = 11, .logit_elements = 13 * 300, .head_elements = head_rows * 64});
    const std::span<const int32_t> one(sequences_[2]);
    pass.run({&one, 1},
             {20,
              std::span(t.ids).first(one.size() * 20),
              std::span(t.log_p).first(one.size() * 20),
              {}},
             false);
    EXPECT_NEAR(run(pass, t, true), loss, 0x1p-19);
    std::vector<double> error = doubles(weights.gradient(slot));
    for (size_t i = 0; i < want.size(); ++i) error[i] -= want[i];
    // Other orders of f32 sums, through two layers.
    EXPECT_LT(std::sqrt(dot(error, error) / dot(want, want)), 1e-5) << head_rows;
  }
}

std::string model_name(const ::testing::TestParamInfo<const char*>& param) {
  return param.param;
}

INSTANTIATE_TEST_SUITE_P(Architectures, BackwardPassTest,
                         ::testing::Values("llama2", "llama3", "mistral", "qwen2", "qwen3"),
                         model_name);

}  // namespace
}  // namespace deltacome
