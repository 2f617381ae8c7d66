// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/linear.h"

#include <limits>
#include <optional>

#include "backend/cpu/linear_mix.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

class LinearTest : public EachIsa {
 protected:
  void check(const Mix& mix, int64_t n_in, int64_t n_out, DType dtype, int64_t extra = 0) {
    const HostTensor w = random_tensor(rng_, dtype, {n_out, n_in}, 0.5f);
    const MixedBatch batch(mix, rng_, *stream_, [&] { return backend_.create_variant(1); });
    const int64_t n = batch.n_rows();
    const int64_t width = n_out + extra + 2;
    const std::vector<float> x = random_floats(rng_, n * n_in);
    Guarded y(backend_, n, width);
    const auto plan = backend_.plan_variants(batch.segments);
    const LinearTarget target = linear_target(0, backend_.import_weight(w), y.tensor());
    backend_.linear(*stream_, *plan, device_tensor(backend_, {n, n_in}, x), {&target, 1});
    for (int64_t r = 0; r < n; ++r) {
      const Entry* e = batch.entry(r);
      const Oracle want = reference(w, e, x.data() + r * n_in, width);
      const int64_t terms = n_in + (e == nullptr ? 0 : n_in + e->format.rank()) + 16;
      for (int64_t o = 0; o < width; ++o) {
        const auto at = static_cast<size_t>(o);
        if (want.defined[at]) {
          ASSERT_NEAR(y.at(r, o), want.y[at], want.bound(at, terms))
              << "row " << r << " output " << o;
        } else {
          ASSERT_EQ(y.at(r, o), Guarded::kCanary) << "row " << r << " output " << o;
        }
      }
    }
    EXPECT_TRUE(y.intact());
  }
};
DELTACOME_FOR_EACH_ISA(LinearTest);

MatrixFormat raw(int64_t n_out, int64_t n_in, DType dtype = DType::kBf16) {
  return raw_format({n_out, n_in}, dtype);
}

TEST_P(LinearTest, BaseOnlyOfEveryTypeAndOddSize) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const int64_t size : {1, 2, 3, 5, 7, 127, 129, 193}) {
      check({{}, {{-1, 3}, {-1, 0}, {-1, 8}}}, size, 37, dtype);
      check({{}, {{-1, 2}}}, 21, size, dtype);
    }
  }
}

TEST_P(LinearTest, EveryWidthOfLowRankDeltas) {
  for (const int bits : {1, 2, 3, 4, 8, 16}) {
    for (const int64_t size : {7, 127, 193}) {
      check({{low_rank(size, 129, {tier(5, bits, 3)})}, {{0, 1}}}, 129, size, DType::kBf16);
      check({{low_rank(129, size, {tier(3, 8, bits), tier(2, 2, bits)})}, {{0, 9}}}, size, 129,
            DType::kBf16);
    }
  }
}

TEST_P(LinearTest, RanksBeyondOneTileAndSeveralScaleRows) {
  check({{low_rank(300, 1100, {tier(2, 8, 8), tier(21, 3, 4), tier(270, 2, 3)})}, {{0, 4}}}, 1100,
        300, DType::kBf16);
}

TEST_P(LinearTest, ColumnsAroundBlocksAndGroupsOfEveryWidth) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (const int64_t size : {128, 129, 255, 256, 384, 511, 512, 513, 640, 1050}) {
      check({{dense(9, size, bits)}, {{0, 5}}}, size, 9, DType::kBf16);
      TierFormat t = tier(size, bits, bits);
      t.v.scale_cols = 0;
      check({{low_rank(size, size, {t})}, {{0, 1}}}, size, size, DType::kF32);
    }
  }
}

TEST_P(LinearTest, SmallTiersWithScalesPerComponent) {
  TierFormat t = tier(9, 3, 2);
  for (const int64_t scale_cols : {128, 256, 0}) {
    t.u = {2, 1, scale_cols};
    check({{low_rank(300, 77, {t, tier(3, 8, 8)})}, {{0, 2}, {-1, 1}}}, 77, 300, DType::kF32);
  }
}

TEST_P(LinearTest, InputsThatAreNotFiniteAreNotHidden) {
  for (const MatrixFormat& format :
       {dense(9, 200, 2), low_rank(9, 200, {tier(3, 2, 2)}), vector_format(9, 200, 8, false)}) {
    auto variant = backend_.create_variant(1);
    variant->set(0, format, random_blob(rng_, format), *stream_);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x(200, 1.0f);
      x[150] = bad;
      Guarded y(backend_, 1, 9);
      const std::vector<VariantSegment> segments = {{variant, 1}};
      const auto plan = backend_.plan_variants(segments);
      const Tensor zeros = backend_.import_weight(
          host_tensor(DType::kF32, {9, 200}, std::vector<float>(9 * 200, 0.0f)));
      const LinearTarget target = linear_target(0, zeros, y.tensor());
      backend_.linear(*stream_, *plan, device_tensor(backend_, {1, 200}, x), {&target, 1});
      for (int64_t o = 0; o < 9; ++o) EXPECT_FALSE(std::isfinite(y.at(0, o))) << o;
    }
  }
}

TEST_P(LinearTest, AnyScaleBlocks) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {2, 3}, {0, 1}, {1, 16}, {5, 0}}) {
    TierFormat t = tier(9, 3, 2);
    t.v.scale_rows = t.u.scale_rows = rows;
    t.v.scale_cols = t.u.scale_cols = cols;
    check({{low_rank(53, 77, {t})}, {{0, 2}}}, 77, 53, DType::kF32);
  }
}

TEST_P(LinearTest, DenseOfEveryWidthAndRaw) {
  for (const int bits : {1, 2, 3, 4, 8, 16})
    check({{dense(65, 193, bits)}, {{0, 2}, {-1, 1}}}, 193, 65, DType::kBf16);
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16})
    check({{raw(65, 193, dtype)}, {{-1, 2}, {0, 3}}}, 193, 65, DType::kBf16);
}

TEST_P(LinearTest, VectorCodesOfEveryDimensionAndInput) {
  for (const int dim : kBookDimensions) {
    // Blocks of 1, 8, 128 and 4; last entries cut; a piece of every dimension ends within 1300.
    for (const int64_t n_in : {1, 3, 5, 193, 40, 384, 1300}) {
      for (const bool gain : {false, true}) {
        check({{vector_format(37, n_in, dim, gain)}, {{0, 1}}}, n_in, 37, DType::kBf16);
        check({{vector_format(37, n_in, dim, gain)}, {{-1, 2}, {0, 9}}}, n_in, 37, DType::kF32);
      }
    }
    check({{vector_format(150, 1024, dim, true)}, {{0, 40}}}, 1024, 150, DType::kBf16);
  }
}

TEST_P(LinearTest, GainsOfLowRankDeltas) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<bool, bool>>{{true, false}, {false, true}, {true, true}}) {
    for (const int64_t size : {7, 127, 193}) {
      check({{with_gains(low_rank(size, 129, {tier(5, 2, 3)}), rows, columns)}, {{0, 1}}}, 129,
            size, DType::kBf16);
      check({{with_gains(low_rank(300, 5 * size, {tier(3, 8, 3), tier(4, 2, 16)}), rows, columns)},
             {{0, 9}}},
            5 * size, 300, DType::kBf16);
    }
  }
}

TEST_P(LinearTest, AddedRowsAreWrittenForTheirVariantOnly) {
  const Mix mix{{low_rank(45, 33, {tier(4, 2, 2)}, 5), dense(45, 33, 4, 2), raw(50, 33),
                 raw(40, 33), vector_format(45, 33, 6, true, 3),
                 with_gains(low_rank(45, 33, {tier(4, 2, 2)}, 2), true, true)},
                {{0, 2}, {-1, 1}, {1, 2}, {2, 1}, {3, 1}, {4, 2}, {5, 1}}};
  check(mix, 33, 45, DType::kBf16, 5);
}

TEST_P(LinearTest, VariantsWithFewerRowsThanTheBaseNeedNoWiderOutput) {
  for (const MatrixFormat& format :
       {low_rank(40, 33, {tier(4, 2, 2)}), dense(40, 33, 4), vector_format(40, 33, 8, true)}) {
    const HostTensor w = random_tensor(rng_, DType::kBf16, {45, 33});
    const HostTensor blob = random_blob(rng_, format);
    auto variant = backend_.create_variant(1);
    variant->set(0, format, blob, *stream_);
    const std::vector<VariantSegment> segments = {{variant, 2}};
    const auto plan = backend_.plan_variants(segments);
    const std::vector<float> x = random_floats(rng_, 2 * 33);
    Guarded y(backend_, 2, 40);
    const LinearTarget target = linear_target(0, backend_.import_weight(w), y.tensor());
    backend_.linear(*stream_, *plan, device_tensor(backend_, {2, 33}, x), {&target, 1});
    const Entry entry{format, blob};
    for (int64_t r = 0; r < 2; ++r) {
      const Oracle want = reference(w, &entry, x.data() + r * 33, 45);
      for (size_t o = 0; o < 40; ++o)
        EXPECT_NEAR(y.at(r, static_cast<int64_t>(o)), want.y[o], want.bound(o, 90));
    }
    EXPECT_TRUE(y.intact());
  }
}

TEST_P(LinearTest, TenantMixes) {
  const std::vector<std::optional<MatrixFormat>> variants = {
      low_rank(65, 193, {tier(9, 2, 3)}), dense(65, 193, 2), raw(65, 193), std::nullopt,
      low_rank(65, 193, {tier(2, 8, 8), tier(30, 1, 4)})};
  check({variants, {{0, 5}}}, 193, 65, DType::kBf16);                                    // uniform
  check({variants, {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}}}, 193, 65, DType::kBf16);    // distinct
  check({variants, {{0, 1}, {-1, 0}, {4, 0}, {-1, 3}, {0, 2}}}, 193, 65, DType::kBf16);  // apart
  check({variants, {{4, 20}, {0, 1}, {-1, 1}}}, 193, 65, DType::kBf16);                  // skewed
}

TEST_P(LinearTest, VectorCodesAmongTheOthers) {
  const std::vector<std::optional<MatrixFormat>> variants = {
      vector_format(65, 384, 8, true), vector_format(65, 384, 16, false),
      low_rank(65, 384, {tier(9, 2, 3)}), dense(65, 384, 2), raw(65, 384)};
  check({variants, {{0, 2}, {2, 1}, {1, 3}, {-1, 1}, {0, 1}, {3, 1}, {4, 1}}}, 384, 65,
        DType::kBf16);
  check({variants, {{1, 20}, {0, 1}, {-1, 1}}}, 384, 65, DType::kBf16);
}

/// One variant with vector codes at slots 0 to 3: 0 and 1 have equal gains, 2 others, 3 none.
TEST_P(LinearTest, TargetsThatShareGainsAndTargetsThatDoNot) {
  const int64_t n_in = 384, n_out = 300, n = 3;
  std::vector<Entry> entries;
  auto variant = backend_.create_variant(4);
  for (int slot = 0; slot < 4; ++slot) {
    const MatrixFormat format = vector_format(n_out, n_in, slot == 1 ? 12 : 8, slot != 3);
    HostTensor blob = random_blob(rng_, format);
    if (slot == 1) {
      std::vector<std::byte> bytes(blob.bytes.begin(), blob.bytes.end());
      const Part from = layout_of(entries[0].format).col_gain, to = layout_of(format).col_gain;
      std::copy_n(entries[0].blob.bytes.begin() + from.offset, to.bytes, bytes.begin() + to.offset);
      blob = HostTensor::of(DType::kU8, blob.shape, std::move(bytes));
    }
    variant->set(slot, format, blob, *stream_);
    entries.push_back({format, blob});
  }
  const HostTensor w = random_tensor(rng_, DType::kBf16, {n_out, n_in});
  const std::vector<float> x = random_floats(rng_, n * n_in);
  CpuBackend one_thread(1, *GetParam());
  const auto run = [&](CpuBackend& backend, std::vector<int> slots) {
    std::vector<Guarded> y;
    std::vector<LinearTarget> targets;
    for (const int slot : slots) {
      y.emplace_back(backend, n, n_out);
      targets.push_back(linear_target(slot, backend.import_weight(w), y.back().tensor()));
    }
    const std::vector<VariantSegment> segments = {{variant, 2}, {nullptr, 1}};
    const auto plan = backend.plan_variants(segments);
    backend.linear(*stream_, *plan, device_tensor(backend, {n, n_in}, x), targets);
    return y;
  };
  const std::vector<Guarded> together = run(backend_, {0, 1, 2, 3});
  const std::vector<Guarded> serial = run(one_thread, {3, 1, 0, 2});
  const std::vector<size_t> place = {2, 1, 3, 0};  // of a slot in `serial`
  for (int slot = 0; slot < 4; ++slot) {
    const auto s = static_cast<size_t>(slot);
    const std::vector<Guarded> alone = run(backend_, {slot});
    EXPECT_TRUE(together[s].intact());
    for (int64_t r = 0; r < n; ++r) {
      const Oracle want = reference(w, r == 2 ? nullptr : &entries[s], x.data() + r * n_in, n_out);
      const int64_t terms = 2 * n_in + 16;
      for (int64_t o = 0; o < n_out; ++o) {
        const auto at = static_cast<size_t>(o);
        EXPECT_NEAR(together[s].at(r, o), want.y[at], want.bound(at, terms));
        EXPECT_EQ(together[s].at(r, o), alone[0].at(r, o));
        EXPECT_EQ(together[s].at(r, o), serial[place[s]].at(r, o));
      }
    }
  }
}

TEST_P(LinearTest, ResidentBytesCountGainsAndSharedSigns) {
  const MatrixFormat vector = vector_format(20, 40, 8, true);
  const MatrixFormat factors = with_gains(low_rank(20, 40, {tier(3, 2, 2)}), true, true);
  const auto variant = backend_.create_variant(3);
  // 5 codes are one piece of 16, 20 rows are padded to 32.
  const int64_t vector_bytes = 32 * 16 + 4 * 40 + 4 * 20;  // codes, gains, scales
  variant->set(0, vector, random_blob(rng_, vector), *stream_);
  EXPECT_EQ(variant->resident_bytes(), vector_bytes + 4 * 40);
  variant->set(1, vector, random_blob(rng_, vector), *stream_);
  variant->set(0, vector, random_blob(rng_, vector), *stream_);
  EXPECT_EQ(variant->resident_bytes(), 2 * vector_bytes + 4 * 40);
  variant->set(2, factors, random_blob(rng_, factors), *stream_);
  // 3 rows of 40 columns are a panel of 4 rows, of one unit; 20 rows of 3 components are two, of
  // 16 and of 4 rows. A row of a panel has a scale for its one group.
  const int64_t v = 64 + 2 * 4 + 4 * 3;
  const int64_t u = 2 * 64 + 2 * 20 + 4 * 20;
  EXPECT_EQ(variant->resident_bytes(), 2 * vector_bytes + 4 * 40 + v + u + 4 * (3 + 40));
}

TEST_P(LinearTest, ARowDoesNotDependOnTheBatch) {
  const int64_t n_in = 1300, n_out = 150;
  const MatrixFormat a = low_rank(n_out, n_in, {tier(20, 2, 3)}), b = dense(n_out, n_in, 2);
  const std::vector<MatrixFormat> formats = {
      a, b, raw(n_out, n_in), vector_format(n_out, n_in, 12, true), with_gains(a, true, true)};
  std::vector<std::shared_ptr<const DeviceVariant>> variants = {nullptr};
  for (const MatrixFormat& format : formats) {
    auto variant = backend_.create_variant(1);
    variant->set(0, format, random_blob(rng_, format), *stream_);
    variants.push_back(variant);
  }
  const HostTensor w = random_tensor(rng_, DType::kBf16, {n_out, n_in});
  const std::vector<float> row = random_floats(rng_, n_in);
  const auto result = [&](const std::shared_ptr<const DeviceVariant>& variant, int64_t n,
                          int64_t at, int64_t others) {
    std::vector<float> x = random_floats(rng_, (n + others) * n_in);
    std::ranges::copy(row, x.begin() + at * n_in);
    Guarded y(backend_, n + others, n_out);
    const std::vector<VariantSegment> segments = {{variant, n}, {variants[1], others}};
    const auto plan = backend_.plan_variants(segments);
    const LinearTarget target = linear_target(0, backend_.import_weight(w), y.tensor());
    backend_.linear(*stream_, *plan, device_tensor(backend_, {n + others, n_in}, x), {&target, 1});
    std::vector<float> out;
    for (int64_t o = 0; o < n_out; ++o) out.push_back(y.at(at, o));
    return out;
  };
  for (const auto& variant : variants) {
    const std::vector<float> alone = result(variant, 1, 0, 0);
    for (int64_t n = 1; n <= 20; ++n) {
      EXPECT_EQ(result(variant, n, n - 1, 0), alone) << n;
      EXPECT_EQ(result(variant, n, n / 2, 3), alone) << n;
    }
  }
}

TEST_P(LinearTest, TargetsShareXAndEachRowUsesItsOwnBias) {
  const int64_t n_in = 40, n_out = 20, n = 3;
  const HostTensor w0 = random_tensor(rng_, DType::kBf16, {n_out, n_in});
  const HostTensor w1 = random_tensor(rng_, DType::kF32, {n_out, n_in});
  const HostTensor bias = random_tensor(rng_, DType::kBf16, {n_out});
  const MatrixFormat own = raw_format({n_out}, DType::kF32);
  const HostTensor own_bias = random_tensor(rng_, DType::kF32, {n_out});
  auto variant = backend_.create_variant(3);
  variant->set(1, own, own_bias, *stream_);
  const std::vector<VariantSegment> segments = {{nullptr, 1}, {variant, 2}};
  const auto plan = backend_.plan_variants(segments);
  const std::vector<float> x = random_floats(rng_, n * n_in);
  Guarded y0(backend_, n, n_out), y1(backend_, n, n_out);
  std::vector<LinearTarget> targets = {linear_target(0, backend_.import_weight(w0), y0.tensor()),
                                       linear_target(2, backend_.import_weight(w1), y1.tensor())};
  targets[0].bias_slot = 1;
  targets[0].bias = backend_.import_weight(bias);
  backend_.linear(*stream_, *plan, device_tensor(backend_, {n, n_in}, x), targets);
  for (int64_t r = 0; r < n; ++r) {
    Oracle want0 = reference(w0, nullptr, x.data() + r * n_in, n_out);
    const Oracle want1 = reference(w1, nullptr, x.data() + r * n_in, n_out);
    const std::vector<float> b = r == 0 ? bias.to_float() : own_bias.to_float();
    for (size_t o = 0; o < static_cast<size_t>(n_out); ++o) {
      want0.add(o, b[o]);
      const auto out = static_cast<int64_t>(o);
      EXPECT_NEAR(y0.at(r, out), want0.y[o], gamma_k(n_in + 2) * want0.magnitude[o]);
      EXPECT_NEAR(y1.at(r, out), want1.y[o], gamma_k(n_in + 2) * want1.magnitude[o]);
    }
  }
  EXPECT_GT(variant->resident_bytes(), n_out * 4);
}

}  // namespace
}  // namespace deltacome::cpu
