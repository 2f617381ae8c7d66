// SPDX-License-Identifier: Apache-2.0
// Deltas of many rows of one variant: inputs and weights are bf16 there. Against double precision
// from the same codes.
#include "quant/vector_codes.h"
#include "tests/cuda/delta_test_support.h"

namespace deltacome::cuda {
namespace {

/// What a row gets from a delta, and the sum of the magnitudes of all products in it.
struct Exact {
  std::vector<double> y, magnitude;
};

Exact exact(const Entry& e, std::span<const float> x) {
  const auto n_in = static_cast<size_t>(e.format.n_in());
  const auto n_out = static_cast<size_t>(e.format.base_rows);
  Exact out{std::vector<double>(n_out), std::vector<double>(n_out)};
  std::vector<double> input(x.begin(), x.end());
  std::vector<float> w;
  if (e.format.codec == Codec::kVector) {
    w = decode_rotated(e.format, e.blob.bytes);
    const std::vector<float> gains = decode_gains(e.blob.bytes, layout_of(e.format).col_gain);
    for (size_t i = 0; i < gains.size(); ++i) input[i] *= static_cast<double>(gains[i]);
    rotate(std::span(input), rotation_signs(e.format.vector.seed, e.format.n_in()),
           e.format.vector.block);
  }
  const DecodedDelta d = decode_delta(e.format, e.blob.bytes);
  if (e.format.codec == Codec::kDense) w = d.v;
  if (e.format.codec != Codec::kLowRank) {
    for (size_t o = 0; o < n_out; ++o) {
      for (size_t i = 0; i < n_in; ++i) {
        const double p = static_cast<double>(w[o * n_in + i]) * input[i];
        out.y[o] += p;
        out.magnitude[o] += std::abs(p);
      }
    }
    return out;
  }
  const size_t rank = d.s.size();
  for (size_t c = 0; c < rank; ++c) {
    double z = 0, size = 0;
    for (size_t i = 0; i < n_in; ++i) {
      const double p = static_cast<double>(d.v[c * n_in + i]) * input[i];
      z += p;
      size += std::abs(p);
    }
    for (size_t o = 0; o < n_out; ++o) {
      const double u = static_cast<double>(d.u[o * rank + c]) * static_cast<double>(d.s[c]);
      out.y[o] += u * z;
      out.magnitude[o] += std::abs(u) * size;
    }
  }
  return out;
}

class DeltaPromptTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    context_.lt_matmul = std::make_shared<LtMatmul>(context_.memory);
    context_.decode_rows = {3, 3, 3};
  }

  /// Every variant has to have at least 3 rows in all.
  void check(const Mix& mix, int64_t n_in, int64_t n_out, int64_t stride_beyond = 3) {
    SCOPED_TRACE(testing::Message() << "n_in " << n_in << " n_out " << n_out);
    const MixedBatch batch(mix, rng_, *stream_,
                           [&] { return std::make_shared<CudaVariant>(context_, 1); });
    const int64_t n = batch.n_rows(), width = n_out + stride_beyond;
    const std::vector<float> x = random_floats(rng_, n * n_in);
    GuardedOutput y(rng_, n, width);
    y.all = put({n + 2, width}, y.before);
    const CudaVariantPlan plan(context_, batch.segments, *stream_);
    LinearTarget target;
    target.slot = 0;
    target.y = y.tensor();
    add_deltas(context_, *stream_, plan, put({n, n_in}, x), {&target, 1});
    const std::vector<float> got = get(y.all);
    // x, V, z and U are rounded to bf16; the rest is as exact as float32.
    constexpr double kU = 0x1p-8;
    const double relative = std::pow(1 + kU, 4) - 1 + 2 * gamma_k(2 * n_in + 4096);
    double error = 0, size = 0;
    for (int64_t r = -1; r <= n; ++r) {
      const Entry* e = r < 0 || r == n ? nullptr : batch.entry(r);
      Exact want;
      if (e != nullptr)
        want = exact(
            *e, std::span(x).subspan(static_cast<size_t>(r * n_in), static_cast<size_t>(n_in)));
      for (int64_t o = 0; o < width; ++o) {
        const float value = got[static_cast<size_t>((r + 1) * width + o)];
        if (e == nullptr || o >= n_out) {
          ASSERT_EQ(value, y.was(r, o)) << "row " << r << " output " << o;
          continue;
        }
        const auto at = static_cast<size_t>(o);
        const auto was = static_cast<double>(y.was(r, o));
        const double off = static_cast<double>(value) - was - want.y[at];
        ASSERT_LE(std::abs(off), relative * want.magnitude[at] + gamma_k(64) * std::abs(was))
            << "row " << r << " output " << o << ": " << value << ", expected " << was + want.y[at];
        error += off * off;
        size += want.y[at] * want.y[at];
      }
    }
    // Errors of many products are not all of one sign: much tighter than the bound of one output.
    EXPECT_LE(std::sqrt(error / size), 0x1p-6);
  }
};

TEST_F(DeltaPromptTest, LowRankOfEveryWidth) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    check({{low_rank(193, 129, {tier(45, bits, 3)})}, {{0, 5}}}, 129, 193);
    check({{low_rank(129, 193, {tier(33, 8, bits), tier(140, 2, bits)})}, {{0, 9}}}, 193, 129);
  }
}

TEST_F(DeltaPromptTest, TiersWithScalesPerComponentAndGains) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    TierFormat t = tier(9, 3, bits);
    t.u = {bits, 1, 128};
    const MatrixFormat format = low_rank(300, 277, {t, tier(3, 8, 8), tier(150, 2, 2)});
    check({{format}, {{0, 4}}}, 277, 300);
    check({{with_gains(format, true, true)}, {{-1, 2}, {0, 4}}}, 277, 300);
    const TierFormat one{.rank = 72, .v = {bits, 0, 0}, .u = {bits, 0, 0}};
    check({{with_gains(low_rank(150, 300, {one}), true, true)}, {{0, 3}}}, 300, 150);
  }
}

TEST_F(DeltaPromptTest, DenseOfEveryWidthAndScaleBlock) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) check({{dense(165, 193, bits)}, {{0, 4}}}, 193, 165);
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {2, 3}, {1, 0}})
    check({{dense_format(153, 77, {4, rows, cols})}, {{0, 6}}}, 77, 153);
}

TEST_F(DeltaPromptTest, VectorCodesOfEveryDimensionAndInput) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {5, 193, 40, 384, 1300, 5120})
      check({{vector_format(137, n_in, dim, n_in % 2 == 0)}, {{0, 3}}}, n_in, 137);
  }
}

/// Weights do not fit what is decoded at a time.
TEST_F(DeltaPromptTest, MatricesInSeveralPieces) {
  context_.decoded_bytes = 2 * 128 * 512;
  check({{low_rank(700, 520, {tier(2, 8, 8), tier(30, 3, 3), tier(300, 2, 2)})}, {{0, 4}}}, 520,
        700);
  check({{vector_format(300, 512, 8, true)}, {{0, 4}}}, 512, 300);
  check({{dense(700, 520, 2)}, {{0, 4}}}, 520, 700);
}

TEST_F(DeltaPromptTest, VariantsWithFewAndManyRows) {
  const std::vector<std::optional<MatrixFormat>> variants = {
      low_rank(65, 193, {tier(9, 2, 3)}), dense(65, 193, 2), vector_format(65, 193, 12, true),
      std::nullopt};
  check({variants, {{0, 5}, {1, 3}, {-1, 2}, {2, 4}, {3, 3}}}, 193, 65);
  check({variants, {{0, 2}, {2, 20}, {0, 1}, {1, 4}}}, 193, 65);  // rows of 0 are apart
}

/// q, k and v: their V are multiplied as one, those with other gains on their own.
TEST_F(DeltaPromptTest, TargetsThatShareAnInput) {
  const int64_t n_in = 384, n_out = 300, n = 6;
  const MatrixFormat tiers = low_rank(n_out, n_in, {tier(20, 2, 2), tier(3, 8, 8)});
  const std::vector<MatrixFormat> formats = {tiers, tiers, with_gains(tiers, true, true),
                                             vector_format(n_out, n_in, 8, true),
                                             vector_format(n_out, n_in, 6, false)};
  std::vector<Entry> entries;
  auto variant = std::make_shared<CudaVariant>(context_, 5);
  for (size_t slot = 0; slot < formats.size(); ++slot) {
    entries.push_back({formats[slot], random_blob(rng_, formats[slot])});
    variant->set(static_cast<int>(slot), formats[slot], entries.back().blob, *stream_);
  }
  const std::vector<VariantSegment> segments = {{variant, n}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  const std::vector<float> x = random_floats(rng_, n * n_in);
  const Tensor input = put({n, n_in}, x);
  std::vector<LinearTarget> targets(formats.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    targets[i].slot = static_cast<int>(i);
    targets[i].y = put({n, n_out}, std::vector<float>(static_cast<size_t>(n * n_out), 0.0f));
  }
  add_deltas(context_, *stream_, plan, input, targets);
  const double relative = std::pow(1 + 0x1p-8, 4) - 1 + 2 * gamma_k(2 * n_in + 4096);
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::vector<float> got = get(targets[i].y);
    double error = 0, size = 0;
    for (int64_t r = 0; r < n; ++r) {
      const Exact want = exact(entries[i], std::span(x).subspan(static_cast<size_t>(r * n_in),
                                                                static_cast<size_t>(n_in)));
      for (size_t o = 0; o < static_cast<size_t>(n_out); ++o) {
        const double off = static_cast<double>(got[static_cast<size_t>(r * n_out) + o]) - want.y[o];
        ASSERT_LE(std::abs(off), relative * want.magnitude[o])
            << "slot " << i << " row " << r << " output " << o;
        error += off * off;
        size += want.y[o] * want.y[o];
      }
    }
    EXPECT_LE(std::sqrt(error / size), 0x1p-6) << "slot " << i;
  }
}

/// Deterministic results come from the kernels of few rows, whatever the number of rows.
TEST_F(DeltaPromptTest, NothingIsDecodedIfDeterministic) {
  context_.deterministic = true;
  const MatrixFormat format = low_rank(150, 300, {tier(40, 2, 2)});
  auto variant = std::make_shared<CudaVariant>(context_, 1);
  variant->set(0, format, random_blob(rng_, format), *stream_);
  const std::vector<VariantSegment> segments = {{variant, 50}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  const std::vector<int> slots = {0};
  EXPECT_TRUE(plan.call(slots, 300, *stream_).prompts.empty());
  context_.deterministic = false;
  const CudaVariantPlan other(context_, segments, *stream_);
  EXPECT_EQ(other.call(slots, 300, *stream_).prompts.size(), 1U);
}

}  // namespace
}  // namespace deltacome::cuda
