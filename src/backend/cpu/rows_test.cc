// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/rows.h"

#include "backend/cpu/test_support.h"
#include "deltacome/error.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

using RowsTest = EachIsa;
DELTACOME_FOR_EACH_ISA(RowsTest);

TEST_P(RowsTest, RmsNormUsesEachRowsOwnWeightOnEveryPiece) {
  for (const int64_t d : {1, 2, 3, 5, 7, 127, 129, 193}) {
    const int64_t n = 5, pieces = 3;
    const MatrixFormat format = raw_format({d}, DType::kF32);
    const HostTensor base = random_tensor(rng_, DType::kBf16, {d});
    const HostTensor own = random_tensor(rng_, DType::kF32, {d});
    auto variant = backend_.create_variant(1);
    // A raw blob is padded to the alignment of its parts.
    std::vector<std::byte> blob(static_cast<size_t>(layout_of(format).total_bytes));
    std::ranges::copy(own.bytes, blob.begin());
    variant->set(0, format, HostTensor::of(DType::kU8, {}, blob), *stream_);
    const std::vector<VariantSegment> segments = {{variant, 2}, {nullptr, 3}};
    const auto plan = backend_.plan_variants(segments);
    const std::vector<float> x = random_floats(rng_, n * pieces * d);
    Guarded y(backend_, n, pieces * d);
    std::ranges::copy(x, f32(y.tensor()));
    backend_.rms_norm(*stream_, *plan, 0, y.tensor(), backend_.import_weight(base), 1e-5,
                      y.tensor());
    for (int64_t r = 0; r < n; ++r) {
      const std::vector<float> w = (r < 2 ? own : base).to_float();
      for (int64_t i = 0; i < pieces * d; ++i) {
        double squares = 0;
        const auto first = static_cast<size_t>(r * pieces * d + i / d * d);
        for (size_t j = first; j < first + static_cast<size_t>(d); ++j)
          squares += static_cast<double>(x[j]) * static_cast<double>(x[j]);
        const double want = static_cast<double>(x[static_cast<size_t>(r * pieces * d + i)]) /
                            std::sqrt(squares / static_cast<double>(d) + 1e-5) *
                            static_cast<double>(w[static_cast<size_t>(i % d)]);
        EXPECT_NEAR(y.at(r, i), want, gamma_k(d + 8) * std::abs(want));
      }
    }
    EXPECT_TRUE(y.intact());
  }
}

class EmbedTest : public EachIsa {
 protected:
  static constexpr int64_t kRows = 11, kWidth = 21;
  HostTensor table_ = random_tensor(rng_, DType::kBf16, {kRows, kWidth});

  std::vector<float> embed_one(const std::shared_ptr<const DeviceVariant>& variant, int32_t id) {
    const std::vector<VariantSegment> segments = {{variant, 1}};
    const auto plan = backend_.plan_variants(segments);
    const Tensor y = backend_.allocate(DType::kF32, {1, kWidth});
    backend_.embed(*stream_, *plan, 0, {&id, 1}, backend_.import_weight(table_), y);
    return {f32(y), f32(y) + kWidth};
  }
};
DELTACOME_FOR_EACH_ISA(EmbedTest);

TEST_P(EmbedTest, BaseDenseAddedAndRawRows) {
  const MatrixFormat dense = dense_format(kRows, kWidth, {4, 1, 128}, 2);
  const HostTensor blob = random_blob(rng_, dense);
  auto variant = backend_.create_variant(1);
  variant->set(0, dense, blob, *stream_);
  const std::vector<float> delta = decode_delta(dense, blob.bytes).v;
  const std::vector<float> base = table_.to_float(3, 1);
  EXPECT_EQ(embed_one(nullptr, 3), base);
  const std::vector<float> got = embed_one(variant, 3);
  for (size_t i = 0; i < base.size(); ++i) EXPECT_EQ(got[i], base[i] + delta[3 * base.size() + i]);
  std::vector<float> added(static_cast<size_t>(2 * kWidth));
  convert_to_float(blob.bytes.data() + layout_of(dense).added.offset, DType::kBf16, added);
  EXPECT_EQ(embed_one(variant, kRows + 1), std::vector<float>(added.begin() + kWidth, added.end()));

  const MatrixFormat raw = raw_format({4, kWidth}, DType::kF32);
  const HostTensor raw_blob = random_blob(rng_, raw);
  auto smaller = backend_.create_variant(1);
  smaller->set(0, raw, raw_blob, *stream_);
  std::vector<float> row(static_cast<size_t>(kWidth));
  convert_to_float(raw_blob.bytes.data() + 3 * kWidth * 4, DType::kF32, row);
  EXPECT_EQ(embed_one(smaller, 3), row);
  EXPECT_THROW(embed_one(smaller, 4), Error);
}

TEST_P(EmbedTest, CodecsOfProjectionsAreUnsupported) {
  MatrixFormat low_rank = dense_format(kRows, kWidth, {});
  low_rank.codec = Codec::kLowRank;
  low_rank.tiers = {{.rank = 2, .v = {2, 1, 128}, .u = {2, 128, 1}}};
  for (const MatrixFormat& format : {low_rank, vector_format(kRows, kWidth, 8, true)}) {
    auto variant = backend_.create_variant(1);
    variant->set(0, format, random_blob(rng_, format), *stream_);
    try {
      embed_one(variant, 3);
      ADD_FAILURE() << codec_name(format.codec);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
      EXPECT_TRUE(std::string(e.what()).starts_with(codec_name(format.codec))) << e.what();
    }
  }
}

TEST_P(EmbedTest, IdsThatTheVariantLacksAreInvalid) {
  for (const int32_t id : {-1, static_cast<int32_t>(kRows)}) {
    try {
      embed_one(nullptr, id);
      ADD_FAILURE() << id;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    }
  }
}

TEST_P(RowsTest, ElementwiseAndGather) {
  const int64_t n = 3, width = 129;
  const std::vector<float> a = random_floats(rng_, n * width), b = random_floats(rng_, n * width);
  Guarded y(backend_, n, width);
  std::ranges::copy(a, f32(y.tensor()));
  backend_.add(*stream_, device_tensor(backend_, {n, width}, b), y.tensor());
  for (int64_t i = 0; i < n * width; ++i)
    EXPECT_EQ(y.at(i / width, i % width), a[static_cast<size_t>(i)] + b[static_cast<size_t>(i)]);
  const std::vector<int32_t> rows = {2, 0, 2};
  backend_.gather_rows(*stream_, device_tensor(backend_, {n, width}, a), rows, y.tensor());
  for (int64_t i = 0; i < n * width; ++i)
    EXPECT_EQ(y.at(i / width, i % width),
              a[static_cast<size_t>(rows[static_cast<size_t>(i / width)] * width + i % width)]);
  EXPECT_TRUE(y.intact());
}

TEST_P(RowsTest, MemoryGoesInAndOutUnchanged) {
  const std::vector<float> a = random_floats(rng_, 12);
  const Tensor t = backend_.allocate(DType::kF32, {3, 4});
  backend_.upload(*stream_, std::as_bytes(std::span(a)), t);
  std::vector<float> back(12);
  backend_.download(*stream_, t, std::as_writable_bytes(std::span(back)));
  EXPECT_EQ(a, back);
  EXPECT_TRUE(backend_.name().starts_with("cpu ("));
}

}  // namespace
}  // namespace deltacome::cpu
