// SPDX-License-Identifier: Apache-2.0
#include "model/backward.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

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
    return pass.run(views, t.k, t.ids, t.log_p, backward);
  }
  /// Mean KL(p || q) in float64, q = the base by Model::forward.
  double reference_loss(const TopTargets& t) const {
    const auto width = static_cast<size_t>(tiny_.model.config().vocab_size);
    const std::vector<float> logits = tiny_.logits({}, sequences_);
    const size_t n = logits.size() / width, k = static_cast<size_t>(t.k);
    double loss = 0;
    for (size_t r = 0; r < n; ++r) {
      const auto log_q = testing::log_softmax(std::span(logits).subspan(r * width, width));
      double p_rest = 1, q_rest = 1;
      for (size_t i = r * k; i < (r + 1) * k; ++i) {
        const double log_p = static_cast<double>(t.log_p[i]);
        const double lq = log_q[static_cast<size_t>(t.ids[i])];
        loss += std::exp(log_p) * (log_p - lq);
        p_rest -= std::exp(log_p);
        q_rest -= std::exp(lq);
      }
      if (k < width) loss += p_rest * std::log(p_rest / q_rest);
    }
    return loss / static_cast<double>(n);
  }

  TinyModel tiny_{GetParam()};
  PlainWeights weights_{tiny_};
  BackwardPass pass_{tiny_.model, *tiny_.stream, weights_};
  /// Of different lengths, longer and shorter than mistral's window of 16.
  std::vector<std::vector<int32_t>> sequences_ = tiny_.random_sequences({41, 1, 23, 7});
};

TEST_P(BackwardPassTest, LossIsThatOfTheModelsOwnLogits) {
  // KL has no first-order term at its minimum, so that of a model with itself is what is left of
  // log_p's rounding: 2^-24 sum p |log p|, below 2^-24 * log 300, and of p's normalization.
  EXPECT_LT(run(pass_, targets({}, 300), false), 1e-6);
  for (const int64_t k : {1, 20, 300}) {
    const TopTargets t = targets(tiny_.tuned, k);
    // The gradient q - p of a row's loss has a 1-norm of at most 2: a tolerance of 2 * the
    // difference of logits that two orders of f32 sums make. 
    const double want = reference_loss(t);
    const double got = run(pass_, t, false);
    printf("%s k %d got %.9f want %.9f diff %g\n", GetParam(), int(k), got, want, got-want);
    EXPECT_NEAR(got, want, 2e-5);
    EXPECT_GT(want, 0.01);
  }
}

TEST_P(BackwardPassTest, GradientsAreCentralDifferences) {
  const TopTargets t = targets(tiny_.tuned, 20);
  run(pass_, t, true);
  std::mt19937 rng(3);
  std::normal_distribution<double> normal;
  const auto check = [&](const char* what, const Weight& w) {
    if (w.tensor.empty()) return;
    const auto& host = weights_.at(w.slot).host;
    const auto g = weights_.gradient(w.slot);
    double ww = 0, gg = 0;
    for (size_t i = 0; i < g.size(); ++i) ww += double(host[i])*double(host[i]), gg += double(g[i])*double(g[i]);
    for (int trial = 0; trial < 3; ++trial) {
      std::vector<double> d(g.size()); double dd = 0;
      for (size_t i = 0; i < g.size(); ++i) { d[i] = trial == 0 ? double(g[i]) : normal(rng); dd += d[i]*d[i]; }
      for (double& v : d) v *= std::sqrt(ww/dd);
      double dot = 0; for (size_t i = 0; i < g.size(); ++i) dot += d[i]*double(g[i]);
      double unit = std::sqrt(gg*ww/double(g.size()));
      printf("%-10s %s t%d dot %9.2e unit %8.1e gn %8.1e:", GetParam(), what, trial, dot, unit, std::sqrt(gg*ww));
      for (double h : {0.003, 0.01, 0.03, 0.1}) {
        auto f = [&](double s) { std::vector<float> v(host); for (size_t i = 0; i < v.size(); ++i) v[i] = float(double(host[i]) + s*d[i]); weights_.set(w.slot, v); return run(pass_, t, false); };
        double a = f(h), b = f(-h), c = f(h/2), e = f(-h/2);
        double d1 = (a-b)/(2*h), d2 = (c-e)/h, d4 = (4*d2-d1)/3;
        printf("  h%.3f %8.1e %8.1e", h, d1-dot, d4-dot);
      }
      printf("\n");
      weights_.set(w.slot, host);
    }
  };
  const auto& ws = tiny_.model.weights();
  for (const LayerWeights* l : {&ws.layers.front(), &ws.layers.back()}) {
    check("in_norm", l->input_norm); check("q", l->q.weight); check("k", l->k.weight); check("v", l->v.weight); check("qn", l->q_norm); check("kn", l->k_norm);
    check("o", l->o.weight); check("postn", l->post_norm); check("gate", l->gate.weight); check("up", l->up.weight); check("down", l->down.weight);
  }
  check("final", ws.final_norm);
}

INSTANTIATE_TEST_SUITE_P(Architectures, BackwardPassTest,
                         ::testing::Values("llama2", "llama3", "mistral", "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace deltacome
