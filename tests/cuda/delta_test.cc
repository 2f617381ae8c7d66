// SPDX-License-Identifier: Apache-2.0
// Kernels of deltas against the double-precision oracle of the CPU's linear(): it has the same
// arithmetic, inputs of 8 bits with a scale per 128 included.
#include <limits>

#include "tests/cuda/delta_test_support.h"

namespace deltacome::cuda {
namespace {

using cpu::testing::reference;

class DeltaTest : public DeviceTest {
 protected:
  /// Rows of y beyond those of the variants, and of base rows, must keep what they were.
  void check(const Mix& mix, int64_t n_in, int64_t n_out, int64_t extra = 0) {
    SCOPED_TRACE(testing::Message() << "n_in " << n_in << " n_out " << n_out);
    // The oracle's product with the base is zero: y has it already.
    const HostTensor w = host_tensor(DType::kF32, {n_out, n_in},
                                     std::vector<float>(static_cast<size_t>(n_out * n_in), 0.0f));
    const MixedBatch batch(mix, rng_, *stream_,
                           [&] { return std::make_shared<CudaVariant>(context_, 1); });
    const int64_t n = batch.n_rows();
    const int64_t width = n_out + extra + 2;
    const std::vector<float> x = random_floats(rng_, n * n_in);
    GuardedOutput y(rng_, n, width);
    y.all = put({n + 2, width}, y.before);
    const CudaVariantPlan plan(context_, batch.segments, *stream_);
    LinearTarget target;
    target.slot = 0;
    target.y = y.tensor();
    add_deltas(context_, *stream_, plan, put({n, n_in}, x), {&target, 1});
    const std::vector<float> got = get(y.all);
    for (int64_t i = 0; i < width; ++i) {
      ASSERT_EQ(got[static_cast<size_t>(i)], y.was(-1, i)) << "guard before, column " << i;
      ASSERT_EQ(got[static_cast<size_t>((n + 1) * width + i)], y.was(n, i)) << "guard behind " << i;
    }
    for (int64_t r = 0; r < n; ++r) {
      const Entry* e = batch.entry(r);
      const Oracle want = reference(w, e, x.data() + r * n_in, width);
      const int64_t terms = 2 * n_in + (e == nullptr ? 0 : e->format.rank()) + 64;
      for (int64_t o = 0; o < width; ++o) {
        const auto at = static_cast<size_t>(o);
        const float value = got[static_cast<size_t>((r + 1) * width + o)];
        const auto was = static_cast<double>(y.was(r, o));
        if (e == nullptr || !want.defined[at]) {
          ASSERT_EQ(value, y.was(r, o)) << "row " << r << " output " << o;
          continue;
        }
        const bool replaced = e->format.codec == Codec::kRaw || o >= e->format.base_rows;
        if (!replaced && o >= n_out) continue;
        const double base = replaced ? 0 : was;
        ASSERT_NEAR(static_cast<double>(value), base + want.y[at],
                    want.bound(at, terms) + gamma_k(64) * std::abs(base))
            << "row " << r << " output " << o;
      }
    }
  }
};

TEST_F(DeltaTest, EveryWidthOfLowRankDeltas) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    for (const int64_t size : {1, 7, 127, 193}) {
      check({{low_rank(size, 129, {tier(1, bits, 3)})}, {{0, 1}}}, 129, size);
      check({{low_rank(129, size, {tier(1, 8, bits), tier(1, 2, bits)})}, {{0, 9}}}, size, 129);
    }
    check({{low_rank(193, 129, {tier(5, bits, 3)})}, {{0, 1}}}, 129, 193);
    check({{low_rank(129, 193, {tier(3, 8, bits), tier(2, 2, bits)})}, {{0, 9}}}, 193, 129);
  }
}

TEST_F(DeltaTest, RanksBeyondOneTileAndSeveralScaleRows) {
  check({{low_rank(300, 1100, {tier(2, 8, 8), tier(21, 3, 4), tier(270, 2, 3)})}, {{0, 4}}}, 1100,
        300);
}

TEST_F(DeltaTest, ColumnsAroundTilesAndGroupsOfEveryWidth) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (const int64_t size : {1, 31, 32, 33, 128, 129, 255, 256, 384, 513, 1050}) {
      check({{dense(9, size, bits)}, {{0, 5}}}, size, 9);
      check({{dense(257, size, bits)}, {{0, 1}}}, size, 257);
    }
    for (const int64_t size : {33, 129, 513}) {
      TierFormat t = tier(size, bits, bits);
      t.v.scale_cols = 0;
      check({{low_rank(size, size, {t})}, {{0, 1}}}, size, size);
    }
  }
}

TEST_F(DeltaTest, OneScaleOfAllWithGains) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    TierFormat t{.rank = 72, .v = {bits, 0, 0}, .u = {bits, 0, 0}};
    check({{with_gains(low_rank(150, 300, {t}), true, true)}, {{0, 3}}}, 300, 150);
    check({{dense_format(150, 300, {bits, 0, 0})}, {{0, 3}}}, 300, 150);
    check({{dense_format(150, 300, {bits, 1, 0})}, {{0, 3}}}, 300, 150);
  }
}

TEST_F(DeltaTest, SmallTiersWithScalesPerComponent) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    TierFormat t = tier(9, 3, bits);
    for (const int64_t scale_cols : {128, 256, 0}) {
      t.u.scale_rows = 1;
      t.u.scale_cols = scale_cols;
      check({{low_rank(300, 77, {t, tier(3, 8, 8)})}, {{0, 2}, {-1, 1}}}, 77, 300);
    }
  }
}

TEST_F(DeltaTest, AnyScaleBlocks) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {2, 3}, {0, 1}, {1, 16}, {5, 0}}) {
    TierFormat t = tier(9, 3, 2);
    t.v.scale_rows = t.u.scale_rows = rows;
    t.v.scale_cols = t.u.scale_cols = cols;
    check({{low_rank(53, 77, {t})}, {{0, 2}}}, 77, 53);
    check({{dense_format(53, 77, {4, rows, cols})}, {{0, 6}}}, 77, 53);
  }
}

TEST_F(DeltaTest, DenseOfEveryWidthAndRaw) {
  for (const int bits : {1, 2, 3, 4, 8, 16})
    check({{dense(65, 193, bits)}, {{0, 2}, {-1, 1}}}, 193, 65);
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16})
    check({{raw_format({65, 193}, dtype)}, {{-1, 2}, {0, 3}}}, 193, 65);
}

TEST_F(DeltaTest, VectorCodesOfEveryDimensionAndInput) {
  for (const int dim : kBookDimensions) {
    for (const int64_t n_in : {1, 3, 5, 193, 40, 384, 1300}) {
      for (const bool gain : {false, true}) {
        check({{vector_format(37, n_in, dim, gain)}, {{0, 1}}}, n_in, 37);
        check({{vector_format(37, n_in, dim, gain)}, {{-1, 2}, {0, 9}}}, n_in, 37);
      }
    }
    check({{vector_format(150, 1024, dim, true)}, {{0, 40}}}, 1024, 150);
    check({{vector_format(150, 5120, dim, true)}, {{0, 2}}}, 5120, 150);
  }
}

TEST_F(DeltaTest, GainsOfLowRankDeltas) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<bool, bool>>{{true, false}, {false, true}, {true, true}}) {
    for (const int64_t size : {7, 127, 193}) {
      check({{with_gains(low_rank(size, 129, {tier(5, 2, 3)}), rows, columns)}, {{0, 1}}}, 129,
            size);
      check({{with_gains(low_rank(300, 5 * size, {tier(3, 8, 3), tier(4, 2, 16)}), rows, columns)},
             {{0, 9}}},
            5 * size, 300);
    }
  }
}

TEST_F(DeltaTest, AddedRowsAreWrittenForTheirVariantOnly) {
  const Mix mix{{low_rank(45, 33, {tier(4, 2, 2)}, 5), dense(45, 33, 4, 2),
                 raw_format({50, 33}, DType::kBf16), raw_format({40, 33}, DType::kBf16),
                 vector_format(45, 33, 6, true, 3),
                 with_gains(low_rank(45, 33, {tier(4, 2, 2)}, 2), true, true)},
                {{0, 2}, {-1, 1}, {1, 2}, {2, 1}, {3, 1}, {4, 2}, {5, 1}}};
  check(mix, 33, 45, 5);
}

TEST_F(DeltaTest, TokenCountsFromOneToAPrompt) {
  const std::vector<std::optional<MatrixFormat>> variants = {
      low_rank(193, 300, {tier(40, 2, 2), tier(3, 8, 8)}), dense(193, 300, 4),
      vector_format(193, 300, 8, true), low_rank(193, 300, {tier(16, 16, 16)})};
  for (const int64_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 65, 130}) {
    for (int v = 0; v < 4; ++v) check({variants, {{v, n}, {-1, 1}}}, 300, 193);
    check({variants, {{0, 1}, {1, n}, {2, 1}, {3, 2}, {0, 1}}}, 300, 193);
  }
}

TEST_F(DeltaTest, TenantMixes) {
  const std::vector<std::optional<MatrixFormat>> variants = {
      low_rank(65, 193, {tier(9, 2, 3)}),
      dense(65, 193, 2),
      raw_format({65, 193}, DType::kBf16),
      std::nullopt,
      low_rank(65, 193, {tier(2, 8, 8), tier(30, 1, 4)}),
      vector_format(65, 193, 12, true),
      vector_format(65, 193, 6, false)};
  check({variants, {{0, 5}}}, 193, 65);  // identical
  check({variants, {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}}}, 193, 65);  // distinct
  check({variants, {{0, 3}, {1, 3}, {2, 3}, {3, 3}, {4, 3}, {5, 3}, {6, 3}}}, 193, 65);  // uniform
  check({variants, {{0, 12}, {1, 6}, {5, 4}, {4, 3}, {6, 2}, {3, 2}, {2, 2}}}, 193, 65);  // Zipf
  check({variants, {{0, 1}, {-1, 0}, {4, 0}, {-1, 3}, {0, 2}}}, 193, 65);                 // apart
  check({variants, {{4, 20}, {0, 1}, {-1, 1}}}, 193, 65);                                 // skewed
  check({variants, {{-1, 3}}}, 193, 65);                                                  // base
}

TEST_F(DeltaTest, OneTokenOfEachOfManyVariants) {
  Mix mix;
  for (int v = 0; v < 40; ++v) {
    switch (v % 5) {
      case 0:
        mix.variants.push_back(
            low_rank(300, 193, {tier(2, 8, 8), tier(21, 3, 3), tier(140, 2, 2)}));
        break;
      case 1:
        mix.variants.push_back(dense(300, 193, 1 << v % 4));
        break;
      case 2:
        mix.variants.push_back(with_gains(
            low_rank(300, 193, {{.rank = 150, .v = {2, 0, 0}, .u = {2, 0, 0}}}), true, true));
        break;
      case 3:
        mix.variants.push_back(low_rank(300, 193, {tier(40, 4, 1), tier(33, 1, 4)}));
        break;
      default:
        mix.variants.push_back(std::nullopt);
    }
    mix.segments.push_back({v, 1});
  }
  check(mix, 193, 300);
}

TEST_F(DeltaTest, MoreTiersThanShareRowBlocks) {
  TierFormat by_component = tier(20, 2, 3);
  by_component.u = {3, 1, 128};
  for (const int64_t n : {1, 2, 9}) {
    check({{low_rank(250, 240,
                     {tier(2, 8, 8), tier(21, 3, 3), by_component, tier(40, 2, 2), tier(9, 2, 4),
                      tier(50, 1, 2), tier(40, 2, 8)})},
           {{0, n}}},
          240, 250);
  }
}

TEST_F(DeltaTest, MoreInputsThanABlockOfThreadsHolds) {
  check({{dense(1760, 40000, 8)}, {{0, 1}}}, 40000, 1760);
  check({{dense(224, 40000, 8)}, {{0, 8}}}, 40000, 224);
}

TEST_F(DeltaTest, ALayerOfARealModel) {
  // Shapes and tiers of q_proj of Llama-2-7B at one bit a weight, a part of its outputs.
  TierFormat three = tier(32, 3, 3), eight = tier(2, 8, 8);
  three.u = {3, 1, 128};
  eight.u = {8, 1, 128};
  check({{low_rank(1024, 4096, {eight, three, tier(968, 2, 2)})}, {{0, 1}}}, 4096, 1024);
  check({{vector_format(512, 11008, 8, true)}, {{0, 1}}}, 11008, 512);
}

TEST_F(DeltaTest, InputsThatAreNotFiniteAreNotHidden) {
  for (const MatrixFormat& format :
       {dense(9, 200, 2), low_rank(9, 200, {tier(3, 2, 2)}), vector_format(9, 200, 8, false)}) {
    auto variant = std::make_shared<CudaVariant>(context_, 1);
    variant->set(0, format, random_blob(rng_, format), *stream_);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x(200, 1.0f);
      x[150] = bad;
      const std::vector<VariantSegment> segments = {{variant, 1}};
      const CudaVariantPlan plan(context_, segments, *stream_);
      LinearTarget target;
      target.slot = 0;
      target.y = put({1, 9}, std::vector<float>(9, 0.0f));
      add_deltas(context_, *stream_, plan, put({1, 200}, x), {&target, 1});
      for (const float y : get(target.y)) EXPECT_FALSE(std::isfinite(y));
    }
  }
}

/// Components of a call are zeroed by the one before it.
TEST_F(DeltaTest, CallsThatFollowEachOther) {
  const int64_t n_in = 160, n_out = 200;
  const std::vector<MatrixFormat> formats = {low_rank(n_out, n_in, {tier(70, 2, 2)}),
                                             low_rank(n_out, n_in, {tier(9, 16, 16)}),
                                             low_rank(n_out, n_in, {tier(9, 3, 2), tier(2, 8, 8)})};
  std::vector<Entry> entries;
  auto variant = std::make_shared<CudaVariant>(context_, 3);
  for (int slot = 0; slot < 3; ++slot) {
    const MatrixFormat& format = formats[static_cast<size_t>(slot)];
    entries.push_back({format, random_blob(rng_, format)});
    variant->set(slot, format, entries.back().blob, *stream_);
  }
  const std::vector<VariantSegment> segments = {{variant, 6}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  const std::vector<float> x = random_floats(rng_, 6 * n_in);
  const Tensor input = put({6, n_in}, x);
  const HostTensor zero = host_tensor(DType::kF32, {n_out, n_in},
                                      std::vector<float>(static_cast<size_t>(n_out * n_in), 0.0f));
  for (int turn = 0; turn < 7; ++turn) {
    const size_t slot = static_cast<size_t>(turn) % 3;
    LinearTarget target;
    target.slot = static_cast<int>(slot);
    target.y = put({6, n_out}, std::vector<float>(static_cast<size_t>(6 * n_out), 0.0f));
    add_deltas(context_, *stream_, plan, input, {&target, 1});
    const std::vector<float> got = get(target.y);
    for (int64_t r = 0; r < 6; ++r) {
      const Oracle want = reference(zero, &entries[slot], x.data() + r * n_in, n_out);
      for (size_t o = 0; o < static_cast<size_t>(n_out); ++o) {
        ASSERT_NEAR(static_cast<double>(got[static_cast<size_t>(r * n_out) + o]), want.y[o],
                    want.bound(o, 2 * n_in + 64))
            << "turn " << turn << " row " << r << " output " << o;
      }
    }
  }
}

/// With `deterministic`, to the last bit.
TEST_F(DeltaTest, ARowDoesNotDependOnTheBatch) {
  context_.deterministic = true;
  const int64_t n_in = 1312, n_out = 150;
  const MatrixFormat a = low_rank(n_out, n_in, {tier(140, 2, 2), tier(20, 2, 3), tier(2, 8, 8)});
  const std::vector<MatrixFormat> formats = {
      a,
      dense(n_out, n_in, 2),
      raw_format({n_out, n_in}, DType::kBf16),
      vector_format(n_out, n_in, 12, true),
      low_rank(n_out, n_in, {tier(9, 16, 16), tier(5, 16, 4)}),
      with_gains(a, true, true)};
  std::vector<std::shared_ptr<const DeviceVariant>> variants;
  for (const MatrixFormat& format : formats) {
    auto variant = std::make_shared<CudaVariant>(context_, 1);
    variant->set(0, format, random_blob(rng_, format), *stream_);
    variants.push_back(variant);
  }
  const std::vector<float> row = random_floats(rng_, n_in), base = random_floats(rng_, n_out);
  const auto result = [&](size_t v, int64_t n, int64_t at, int64_t others) {
    std::vector<float> x = random_floats(rng_, (n + others) * n_in);
    std::ranges::copy(row, x.begin() + at * n_in);
    std::vector<float> before = random_floats(rng_, (n + others) * n_out);
    std::ranges::copy(base, before.begin() + at * n_out);
    const std::vector<VariantSegment> segments = {{variants[v], n},
                                                  {variants[(v + 1) % formats.size()], others}};
    const CudaVariantPlan plan(context_, segments, *stream_);
    LinearTarget target;
    target.slot = 0;
    target.y = put({n + others, n_out}, before);
    add_deltas(context_, *stream_, plan, put({n + others, n_in}, x), {&target, 1});
    const std::vector<float> all = get(target.y);
    return std::vector<float>(all.begin() + at * n_out, all.begin() + (at + 1) * n_out);
  };
  for (size_t v = 0; v < formats.size(); ++v) {
    const std::vector<float> alone = result(v, 1, 0, 0);
    for (const int64_t n : {1, 2, 3, 7, 8, 9, 17, 40}) {
      EXPECT_EQ(result(v, n, n - 1, 0), alone) << "format " << v << " rows " << n;
      EXPECT_EQ(result(v, n, n / 2, 3), alone) << "format " << v << " rows " << n;
    }
  }
}

/// Five targets share x; slots differ in gains and codecs, more targets than one launch takes.
TEST_F(DeltaTest, TargetsThatShareAnInput) {
  const int64_t n_in = 384, n_out = 300, n = 3;
  const std::vector<MatrixFormat> formats = {
      vector_format(n_out, n_in, 8, true), vector_format(n_out, n_in, 12, false),
      low_rank(n_out, n_in, {tier(20, 2, 2)}), dense(n_out, n_in, 4),
      with_gains(low_rank(n_out, n_in, {tier(33, 2, 3)}), true, true)};
  std::vector<Entry> entries;
  auto variant = std::make_shared<CudaVariant>(context_, 5);
  for (size_t slot = 0; slot < formats.size(); ++slot) {
    entries.push_back({formats[slot], random_blob(rng_, formats[slot])});
    variant->set(static_cast<int>(slot), formats[slot], entries.back().blob, *stream_);
  }
  const std::vector<VariantSegment> segments = {{variant, 2}, {nullptr, 1}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  const std::vector<float> x = random_floats(rng_, n * n_in);
  const Tensor input = put({n, n_in}, x);
  std::vector<LinearTarget> targets(formats.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    targets[i].slot = static_cast<int>(i);
    targets[i].y = put({n, n_out}, std::vector<float>(static_cast<size_t>(n * n_out), 0.0f));
  }
  add_deltas(context_, *stream_, plan, input, targets);
  const HostTensor zero = host_tensor(DType::kF32, {n_out, n_in},
                                      std::vector<float>(static_cast<size_t>(n_out * n_in), 0.0f));
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::vector<float> got = get(targets[i].y);
    for (int64_t r = 0; r < n; ++r) {
      const Oracle want =
          reference(zero, r == 2 ? nullptr : &entries[i], x.data() + r * n_in, n_out);
      for (size_t o = 0; o < static_cast<size_t>(n_out); ++o) {
        EXPECT_NEAR(static_cast<double>(got[static_cast<size_t>(r * n_out) + o]), want.y[o],
                    want.bound(o, 2 * n_in + 64))
            << "slot " << i << " row " << r << " output " << o;
      }
    }
  }
}

}  // namespace
}  // namespace deltacome::cuda
