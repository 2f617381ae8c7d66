// SPDX-License-Identifier: Apache-2.0
// Plans of variants: embeddings, raw vectors, graphs that outlive their variants.
#include "tests/cuda/delta_test_support.h"

namespace deltacome::cuda {
namespace {

class DeltaPlanTest : public DeviceTest {
 protected:
  std::shared_ptr<CudaVariant> variant_of(const MatrixFormat& format, const HostTensor& blob) {
    auto variant = std::make_shared<CudaVariant>(context_, 2);
    variant->set(0, format, blob, *stream_);
    return variant;
  }
  Tensor ids_of(const std::vector<int32_t>& ids) {
    const Tensor t = context_.allocate(DType::kI32, {static_cast<int64_t>(ids.size())});
    stream_->upload(std::as_bytes(std::span(ids)), bytes_of(t));
    return t;
  }
};

TEST_F(DeltaPlanTest, EmbeddingsGetTheRowsOfTheirVariant) {
  const int64_t n_base = 70, hidden = 150;
  std::vector<MatrixFormat> formats = {raw_format({75, hidden}, DType::kBf16)};
  for (const int bits : {1, 2, 3, 4, 8, 16}) formats.push_back(dense(n_base, hidden, bits, 3));
  formats.push_back(dense_format(n_base, hidden, {4, 2, 3}, 3));
  formats.push_back(dense_format(n_base, hidden, {2, 0, 0}, 3));
  std::vector<Entry> entries;
  std::vector<VariantSegment> segments = {{nullptr, 2}};
  std::vector<int32_t> ids = {5, 69};
  std::vector<size_t> owner = {~size_t{0}, ~size_t{0}};
  for (const MatrixFormat& format : formats) {
    entries.push_back({format, random_blob(rng_, format)});
    segments.push_back({variant_of(format, entries.back().blob), 4});
    for (const int32_t id : {0, 33, 69, 72}) ids.push_back(id);
    owner.insert(owner.end(), 4, entries.size() - 1);
  }
  const CudaVariantPlan plan(context_, segments, *stream_);
  const auto n = static_cast<int64_t>(ids.size());
  const std::vector<float> before = random_floats(rng_, n * hidden);
  const Tensor y = put({n, hidden}, before);
  const Tensor device_ids = ids_of(ids);
  embed_deltas(context_, *stream_, plan, 0, reinterpret_cast<const int32_t*>(bytes_of(device_ids)),
               y);
  const std::vector<float> got = get(y);
  for (size_t r = 0; r < ids.size(); ++r) {
    for (size_t i = 0; i < static_cast<size_t>(hidden); ++i) {
      const size_t at = r * static_cast<size_t>(hidden) + i;
      if (owner[r] == ~size_t{0}) {
        EXPECT_EQ(got[at], before[at]);
        continue;
      }
      const Entry& e = entries[owner[r]];
      const auto id = static_cast<size_t>(ids[r]);
      const BlobLayout layout = layout_of(e.format);
      const bool whole = e.format.codec == Codec::kRaw || ids[r] >= n_base;
      if (whole) {
        const bool raw = e.format.codec == Codec::kRaw;
        const Part part = raw ? layout.raw : layout.added;
        std::vector<float> rows(static_cast<size_t>(part.bytes / 2));
        convert_to_float(e.blob.bytes.data() + part.offset, e.format.raw_dtype, rows);
        EXPECT_EQ(
            got[at],
            rows[(raw ? id : id - static_cast<size_t>(n_base)) * static_cast<size_t>(hidden) + i]);
      } else {
        const DecodedDelta d = decode_delta(e.format, e.blob.bytes);
        const float delta = d.v[id * static_cast<size_t>(hidden) + i];
        EXPECT_NEAR(got[at], before[at] + delta,
                    gamma_k(4) * (std::abs(before[at]) + std::abs(delta)))
            << "format " << owner[r] << " id " << ids[r] << " column " << i;
      }
    }
  }
}

TEST_F(DeltaPlanTest, IdsAreThoseOfTheRowsVariant) {
  const MatrixFormat format = dense(70, 32, 4, 3);
  const std::vector<VariantSegment> segments = {
      {nullptr, 1}, {variant_of(format, random_blob(rng_, format)), 1}, {nullptr, 1}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  EXPECT_EQ(plan.n_ids(0, 0, 70), 70);
  EXPECT_EQ(plan.n_ids(0, 1, 70), 73);
  EXPECT_EQ(plan.n_ids(0, 2, 70), 70);
  EXPECT_EQ(plan.n_ids(1, 1, 70), 70);
}

TEST_F(DeltaPlanTest, RawVectorsByRow) {
  const MatrixFormat format = raw_format({40}, DType::kBf16);
  const HostTensor blob = random_blob(rng_, format);
  auto variant = std::make_shared<CudaVariant>(context_, 3);
  variant->set(1, format, blob, *stream_);
  const std::vector<VariantSegment> segments = {{nullptr, 1}, {variant, 2}, {nullptr, 1}};
  const CudaVariantPlan plan(context_, segments, *stream_);
  EXPECT_EQ(plan.raw_rows(0), nullptr);
  EXPECT_EQ(plan.raw_rows(2), nullptr);
  ASSERT_NE(plan.raw_rows(1), nullptr);
  std::vector<OwnVector> rows(4);
  stream_->download(plan.raw_rows(1), std::as_writable_bytes(std::span(rows)));
  EXPECT_EQ(rows[0].values, nullptr);
  EXPECT_EQ(rows[3].values, nullptr);
  EXPECT_EQ(rows[1].values, rows[2].values);
  ASSERT_NE(rows[1].values, nullptr);
  EXPECT_EQ(rows[1].n, 40);
  std::vector<float> values(40);
  stream_->download(rows[1].values, std::as_writable_bytes(std::span(values)));
  std::vector<float> want(40);
  convert_to_float(blob.bytes.data(), DType::kBf16, want);
  EXPECT_EQ(values, want);
}

TEST_F(DeltaPlanTest, ResidentBytesGrowByTheTensorsAndShrinkWhenReplaced) {
  const MatrixFormat format = dense(256, 256, 2);
  auto variant = std::make_shared<CudaVariant>(context_, 2);
  EXPECT_EQ(variant->resident_bytes(), 0);
  variant->set(0, format, random_blob(rng_, format), *stream_);
  const int64_t one = variant->resident_bytes();
  EXPECT_GE(one, 256 * 256 / 4 + 256 * 2 * 2);
  EXPECT_LE(one, 256 * 256 / 4 + 256 * 2 * 2 + 1024);
  variant->set(0, format, random_blob(rng_, format), *stream_);
  EXPECT_EQ(variant->resident_bytes(), one);
  variant->set(1, format, random_blob(rng_, format), *stream_);
  EXPECT_EQ(variant->resident_bytes(), 2 * one);
}

/// A captured call runs with the variants of a later assignment.
TEST_F(DeltaPlanTest, AGraphIsLaunchedAgainWithOtherVariants) {
  const int64_t n_in = 300, n_out = 200, n = 3;
  const std::vector<MatrixFormat> formats = {
      low_rank(n_out, n_in, {tier(40, 2, 2)}),
      low_rank(n_out, n_in, {tier(9, 3, 2), tier(50, 2, 2)})};
  std::vector<Entry> entries;
  std::vector<std::shared_ptr<CudaVariant>> variants;
  for (const MatrixFormat& format : formats) {
    entries.push_back({format, random_blob(rng_, format)});
    variants.push_back(variant_of(format, entries.back().blob));
  }
  const std::vector<VariantSegment> first = {{variants[0], 2}, {nullptr, 1}};
  const std::vector<VariantSegment> second = {{variants[1], 1}, {variants[0], 1}, {variants[1], 1}};
  const std::vector<std::vector<int>> owners = {{0, 0, -1}, {1, 0, 1}};
  CudaVariantPlan plan(context_, second, *stream_);  // the larger one: room for both
  const std::vector<float> x = random_floats(rng_, n * n_in);
  const Tensor input = put({n, n_in}, x);
  LinearTarget target;
  target.slot = 0;
  const std::vector<float> zeros(static_cast<size_t>(n * n_out), 0.0f);
  target.y = put({n, n_out}, zeros);
  add_deltas(context_, *stream_, plan, input, {&target, 1});
  plan.assign(first, *stream_);
  plan.refresh(*stream_);
  const uint64_t generation = plan.generation();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  DELTACOME_CUDA_CHECK(cudaStreamBeginCapture(stream_->get(), cudaStreamCaptureModeThreadLocal));
  add_deltas(context_, *stream_, plan, input, {&target, 1});
  DELTACOME_CUDA_CHECK(cudaStreamEndCapture(stream_->get(), &graph));
  DELTACOME_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  const HostTensor zero = host_tensor(DType::kF32, {n_out, n_in},
                                      std::vector<float>(static_cast<size_t>(n_out * n_in), 0.0f));
  for (size_t turn = 0; turn < 2; ++turn) {
    if (turn == 1) {
      plan.assign(second, *stream_);
      plan.refresh(*stream_);
    }
    EXPECT_EQ(plan.generation(), generation);
    stream_->upload(std::as_bytes(std::span(zeros)), bytes_of(target.y));
    DELTACOME_CUDA_CHECK(cudaGraphLaunch(exec, stream_->get()));
    const std::vector<float> got = get(target.y);
    for (int64_t r = 0; r < n; ++r) {
      const int owner = owners[turn][static_cast<size_t>(r)];
      const Oracle want =
          cpu::testing::reference(zero, owner < 0 ? nullptr : &entries[static_cast<size_t>(owner)],
                                  x.data() + r * n_in, n_out);
      for (size_t o = 0; o < static_cast<size_t>(n_out); ++o) {
        EXPECT_NEAR(static_cast<double>(got[static_cast<size_t>(r * n_out) + o]), want.y[o],
                    want.bound(o, 2 * n_in + 64))
            << "turn " << turn << " row " << r << " output " << o;
      }
    }
  }
  DELTACOME_CUDA_CHECK(cudaGraphExecDestroy(exec));
  DELTACOME_CUDA_CHECK(cudaGraphDestroy(graph));
}

}  // namespace
}  // namespace deltacome::cuda
