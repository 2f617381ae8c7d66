// SPDX-License-Identifier: Apache-2.0
#include "compress/delta_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "compress/codec.h"
#include "compress/distillation_test_support.h"
#include "compress/plan.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

const std::string kLayer = "model.layers.1.";

class DeltaWeightsTest : public test::DistillationTest {
 protected:
  CodedTensor bitdelta(int slot) {
    const MatrixFormat format =
        plan_projection(Method::kBitDelta, pair_.tensors[static_cast<size_t>(slot)].shape, 16, 128);
    return encode_projection(*backend_, *stream_, pair_.tensors[static_cast<size_t>(slot)].name,
                             format, delta(slot), {});
  }
  CodedTensor dense(int slot, int64_t scale_rows, int64_t scale_cols) {
    MatrixFormat format = format_of(slot, Codec::kDense);
    format.dense = {2, scale_rows, scale_cols};
    const CodeSection whole{0, format.n_in(), format.dense};
    Quantized q = backend_->compression().gptq(*stream_, delta(slot), nullptr, {&whole, 1});
    CodedTensor out{pair_.tensors[static_cast<size_t>(slot)].name, format, {}, {}};
    const BlobLayout layout = layout_of(format);
    out.blob.resize(static_cast<size_t>(layout.total_bytes));
    pack({.format = format.dense,
          .rows = format.base_rows,
          .cols = format.n_in(),
          .codes = std::move(q.sections[0].codes),
          .scales = std::move(q.sections[0].scales),
          .values = {}},
         layout.dense, out.blob);
    return out;
  }
  /// Parameters that are not 1.
  std::vector<float> vary(const DeltaWeights& weights) const {
    std::mt19937 random(5);
    std::uniform_real_distribution<float> factor(0.8F, 1.25F);
    std::vector<float> values(static_cast<size_t>(weights.n_parameters()));
    for (float& v : values) v = factor(random);
    upload(values, weights.values());
    return values;
  }

  struct Range {
    const char* what;
    int64_t count;
  };
  /// Ranges are those of the parameters, one after another, norms not included.
  void check_gradients(DeltaWeights& weights, std::vector<Range> ranges) {
    weights.create_parameters();
    const std::vector<float> at = vary(weights);
    BackwardPass pass(model_, *stream_, weights);
    const TaughtText text = taught(0, 1, 24);
    const std::vector<std::span<const int32_t>> sequences(text.sequences.begin(),
                                                          text.sequences.end());
    const auto run = [&](bool backward) {
      return pass.run(sequences, {text.targets.k, text.targets.ids, text.targets.log_p, {}},
                      backward);
    };
    run(true);
    weights.finish_gradients();
    const std::vector<float> gradient = download(weights.gradients());
    ranges.insert(ranges.begin(), {"norms", weights.n_norm_parameters()});
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    int64_t first = 0;
    for (const Range& range : ranges) {
      const auto begin = static_cast<size_t>(first), n = static_cast<size_t>(range.count);
      first += range.count;
      ASSERT_LE(first, weights.n_parameters());
      for (const bool is_random : {false, true}) {
        std::vector<double> direction(n);
        double squares = 0, lengths = 0, slope = 0;
        for (size_t i = 0; i < n; ++i) {
          direction[i] = is_random ? normal(random) : static_cast<double>(gradient[begin + i]);
          squares += direction[i] * direction[i];
          lengths += static_cast<double>(gradient[begin + i]) * gradient[begin + i];
        }
        ASSERT_GT(lengths, 0) << range.what;
        // So long that the loss should move by 1e-3 of a nat for s = 1 along the gradient, or by
        // that as a standard deviation in a random direction, but no factor by more than 10 %.
        const double size =
            is_random ? std::sqrt(lengths / static_cast<double>(n)) : std::sqrt(lengths);
        const double length = std::min(1e-3 / size, 0.1 * std::sqrt(static_cast<double>(n)));
        for (size_t i = 0; i < n; ++i) {
          direction[i] *= length / std::sqrt(squares);
          slope += direction[i] * static_cast<double>(gradient[begin + i]);
        }
        const auto loss_at = [&](double s) {
          std::vector<float> moved = at;
          for (size_t i = 0; i < n; ++i)
            moved[begin + i] =
                static_cast<float>(static_cast<double>(at[begin + i]) + s * direction[i]);
          upload(moved, weights.values());
          return run(false);
        };
        // Richardson: leaves the fourth power of the step.
        const double coarse = (loss_at(2) - loss_at(-2)) / 4, fine = loss_at(1) - loss_at(-1);
        // Rounding of the loss and what Richardson leaves: measured, below 7e-7 of 1e-3.
        EXPECT_NEAR((2 * fine - coarse) / 3, slope, 1e-3 * length * size + 1e-6)
            << range.what << (is_random ? ", a random direction" : ", along the gradient");
      }
    }
    EXPECT_EQ(first, weights.n_parameters());
    upload(at, weights.values());
  }

  DeltaWeights weights_{model_, *stream_, pair_, nullptr};
};

TEST_F(DeltaWeightsTest, GradientsOfTiersAreDifferences) {
  const int slot = slot_of(kLayer + "mlp.gate_proj.weight");
  weights_.use_delta(slot, encode(slot, low_rank(slot)));
  check_gradients(weights_, {{"rows", 512}, {"singular values", 16}, {"columns", 256}});
}

TEST_F(DeltaWeightsTest, GradientsOfTiersWithoutGainsAreDifferences) {
  const int slot = slot_of(kLayer + "mlp.down_proj.weight");
  MatrixFormat format = low_rank(slot);
  format.row_gain = format.col_gain = false;
  weights_.use_delta(slot, encode(slot, format));
  check_gradients(weights_, {{"singular values", 16}});
}

TEST_F(DeltaWeightsTest, GradientsOfVectorCodesAreDifferences) {
  const int q = slot_of(kLayer + "self_attn.q_proj.weight"),
            v = slot_of(kLayer + "self_attn.v_proj.weight");
  weights_.use_delta(q, encode(q, vector(q, 12)));
  weights_.use_delta(v, encode(v, vector(v, 12)));
  // The two share their columns, which follow the rows of the one that comes first.
  check_gradients(weights_, {{"rows", 256}, {"columns of both", 256}, {"rows of the other", 256}});
}

TEST_F(DeltaWeightsTest, GradientsOfDenseCodesAreDifferences) {
  const int o = slot_of(kLayer + "self_attn.o_proj.weight"),
            up = slot_of(kLayer + "mlp.up_proj.weight");
  weights_.use_delta(o, bitdelta(o));
  check_gradients(weights_, {{"the one scale", 1}});
  weights_.use_base(o);
  weights_.use_delta(up, dense(up, 1, 64));
  check_gradients(weights_, {{"rows", 512}});
}

TEST_F(DeltaWeightsTest, TrainedBytesDecodeToTheWeightsThatWereTrained) {
  std::vector<CodedTensor> coded;
  const auto add = [&](const char* name, const std::function<CodedTensor(int)>& code) {
    const int slot = slot_of(kLayer + name);
    coded.push_back(code(slot));
    weights_.use_delta(slot, coded.back());
  };
  add("self_attn.q_proj.weight", [&](int slot) { return encode(slot, vector(slot, 8)); });
  add("self_attn.k_proj.weight", [&](int slot) { return encode(slot, low_rank(slot)); });
  add("self_attn.v_proj.weight", [&](int slot) {
    MatrixFormat format = low_rank(slot);
    format.row_gain = false;
    return encode(slot, format);
  });
  add("self_attn.o_proj.weight", [&](int slot) { return bitdelta(slot); });
  add("mlp.up_proj.weight", [&](int slot) { return dense(slot, 1, 64); });
  add("mlp.down_proj.weight", [&](int slot) { return dense(slot, 4, 0); });
  weights_.create_parameters();
  vary(weights_);
  for (const CodedTensor& before : coded) {
    const int slot = slot_of(before.name);
    const LinearWeights& w = linear_of(slot);
    const std::vector<float> want = download(weights_.projection(w)),
                             base = pair_.base.at(before.name).to_float();
    const CodedTensor after = weights_.trained(slot);
    EXPECT_EQ(after.format, before.format);
    EXPECT_EQ(after.name, before.name);
    ASSERT_EQ(after.blob.size(), before.blob.size());
    const DecodedDelta q = decode_delta(after.format, after.blob);
    const bool is_low_rank = after.format.codec == Codec::kLowRank;
    const size_t rank = is_low_rank ? static_cast<size_t>(after.format.rank()) : 0,
                 n_in = static_cast<size_t>(after.format.n_in());
    // Two gains are each half a step of 2^(1 / 64) off, an fp16 scale 2^-11, a bf16 singular value
    // 2^-8 at most.
    const double gain = std::exp2(1.0 / 128) - 1;
    const double step = (after.format.row_gain ? gain : 0) + (after.format.col_gain ? gain : 0) +
                        (is_low_rank ? 0x1p-8 : 0x1p-11);
    double moved = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      double delta = is_low_rank ? 0 : static_cast<double>(q.v[i]), magnitude = std::abs(delta);
      for (size_t r = 0; r < rank; ++r) {
        const double term = static_cast<double>(q.u[i / n_in * rank + r]) *
                            static_cast<double>(q.s[r]) *
                            static_cast<double>(q.v[r * n_in + i % n_in]);
        delta += term;
        magnitude += std::abs(term);
      }
      const double got = static_cast<double>(base[i]) + delta;
      ASSERT_NEAR(got, want[i], 1.02 * step * magnitude + 0x1p-22 * std::abs(got) + 1e-7)
          << before.name << " at " << i;
      moved += std::abs(delta);
    }
    EXPECT_GT(moved, 0);
  }
}

TEST_F(DeltaWeightsTest, MatricesOfOneInputGetEqualColumnGains) {
  for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"}) {
    const int slot = slot_of(kLayer + name + ".weight");
    const bool is_low_rank = std::string(name).ends_with("k_proj");
    weights_.use_delta(slot, encode(slot, is_low_rank ? low_rank(slot) : vector(slot, 16)));
  }
  weights_.create_parameters();
  vary(weights_);
  const auto gains = [&](const char* name) {
    const CodedTensor coded_tensor = weights_.trained(slot_of(kLayer + name + ".weight"));
    return decode_gains(coded_tensor.blob, layout_of(coded_tensor.format).col_gain);
  };
  EXPECT_EQ(gains("self_attn.q_proj"), gains("self_attn.k_proj"));
  EXPECT_EQ(gains("self_attn.q_proj"), gains("self_attn.v_proj"));
  EXPECT_EQ(gains("mlp.gate_proj"), gains("mlp.up_proj"));
  EXPECT_NE(gains("self_attn.q_proj"), gains("mlp.up_proj"));
  EXPECT_NE(gains("self_attn.q_proj"), gains("self_attn.o_proj"));
}

TEST_F(DeltaWeightsTest, TrainedNormsAreTheFineTunesTimesTheirFactors) {
  weights_.create_parameters();
  const std::vector<float> factors = vary(weights_);
  const int slot = slot_of("model.layers.0.input_layernorm.weight");
  const CodedTensor trained = weights_.trained_norm(slot);
  EXPECT_NO_THROW(validate(trained.format, trained.name));
  std::vector<float> got(256);
  convert_to_float(trained.blob.data(), trained.format.raw_dtype, got);
  const std::vector<float> used = download(weights_.norm(model_.weights().layers[0].input_norm));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], used[i], 0x1p-11 * std::abs(used[i]));
  EXPECT_NE(got, pair_.finetuned.at(trained.name).to_float());
}

TEST_F(DeltaWeightsTest, AProjectionIsTheBasesTheFineTunesOrTheDeltas) {
  const int slot = slot_of(kLayer + "self_attn.o_proj.weight");
  const std::string& name = pair_.tensors[static_cast<size_t>(slot)].name;
  const LinearWeights& w = linear_of(slot);
  EXPECT_EQ(download(weights_.projection(w)), pair_.base.at(name).to_float());
  weights_.use_finetuned(slot);
  EXPECT_EQ(download(weights_.projection(w)), pair_.finetuned.at(name).to_float());
  weights_.use_delta(slot, bitdelta(slot));
  EXPECT_NE(download(weights_.projection(w)), pair_.base.at(name).to_float());
  weights_.use_base(slot);
  EXPECT_EQ(download(weights_.projection(w)), pair_.base.at(name).to_float());
}

}  // namespace
}  // namespace deltacome
