// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/attention.h"

#include <algorithm>

namespace deltacome::cuda {
namespace {

// A tile of queries reads each key once for all of them, but fills the device less well than the
// same rows on their own.
constexpr int64_t kFewQueries = 4;

PagedCache cache_of(const Tensor& cache) {
  switch (cache.dtype) {
    case DType::kF32:
      return {bytes_of(cache), Element::kF32};
    case DType::kBf16:
      return {bytes_of(cache), Element::kBf16};
    case DType::kU8:
      return {bytes_of(cache), Element::kInt8};
    default:
      fail(ErrorCode::kUnsupported, "KV cache of type {} on the GPU, expected F32, BF16 or U8",
           dtype_name(cache.dtype));
  }
}

}  // namespace

CudaAttentionPlan::CudaAttentionPlan(const CudaContext& context,
                                     std::span<const SequenceChunk> chunks, int splits)
    : context_(context), splits_(splits), device_(Purpose::kWorkspace) {
  assign(chunks);
}

void CudaAttentionPlan::assign(std::span<const SequenceChunk> chunks) {
  n_rows_ = n_blocks_ = 0;
  singles_.clear();
  tiles_.clear();
  host_.clear();
  sent_ = false;
  forget_rotations();
  std::vector<int32_t> positions, tables, blocks;
  for (const SequenceChunk& chunk : chunks) {
    DELTACOME_CHECK(chunk.n_rows >= 0 && chunk.n_past >= 0);
    const int64_t end = chunk.n_past + chunk.n_rows, n = (end + kKvBlock - 1) / kKvBlock;
    DELTACOME_CHECK(static_cast<int64_t>(chunk.block_table.size()) >= n);
    if (chunk.n_rows == 0) continue;
    for (int64_t i = 0; i < chunk.n_rows; ++i) {
      positions.push_back(static_cast<int32_t>(chunk.n_past + i));
      tables.push_back(static_cast<int32_t>(blocks.size()));
    }
    for (const int32_t block : chunk.block_table.first(static_cast<size_t>(n))) {
      DELTACOME_CHECK(block >= 0);
      n_blocks_ = std::max<int64_t>(n_blocks_, block + int64_t{1});
      blocks.push_back(block);
    }
    const auto first = static_cast<int32_t>(n_rows_);
    n_rows_ += chunk.n_rows;
    for (int32_t i = 0; i < chunk.n_rows; i += kQueryTile) {
      const auto left = static_cast<int32_t>(chunk.n_rows - i);
      // The two round in other places: one of them for all, if bits may not depend on the chunk.
      if (chunk.n_rows <= kFewQueries || context_.deterministic) {
        for (int32_t r = 0; r < left; ++r) singles_.push_back(first + r);
      } else {
        tiles_.push_back({first + i, std::min<int32_t>(kQueryTile, left)});
      }
    }
  }
  for (const std::vector<int32_t>* part : {&positions, &tables, &singles_})
    host_.insert(host_.end(), part->begin(), part->end());
  singles_at_ = 2 * positions.size();
  tiles_at_ = host_.size();
  for (const QueryTile& tile : tiles_) {
    host_.push_back(tile.first_row);
    host_.push_back(tile.count);
  }
  blocks_at_ = host_.size();
  host_.insert(host_.end(), blocks.begin(), blocks.end());
}

const int32_t* CudaAttentionPlan::table(CudaStream& stream, size_t first) const {
  if (!sent_) {
    const auto bytes = std::as_bytes(std::span(host_));
    generation_ += device_.reserve(context_, static_cast<int64_t>(bytes.size())) ? 1 : 0;
    stream.upload(bytes, device_.data());
    sent_ = true;
  }
  return reinterpret_cast<const int32_t*>(device_.data()) + first;
}

PagedRows CudaAttentionPlan::rows(CudaStream& stream) const {
  const int32_t* all = table(stream, 0);
  return {.positions = all, .tables = all + n_rows_, .blocks = all + blocks_at_, .n_rows = n_rows_};
}

const float* CudaAttentionPlan::rotations(CudaStream& stream, const Tensor& inv_freq) const {
  if (rotations_of_ != bytes_of(inv_freq)) {
    const int64_t half = inv_freq.size();
    if (rotations_.empty() || rotations_.size() != n_rows_ * 2 * half)
      rotations_ = context_.allocate(DType::kF32, {n_rows_, 2 * half});
    DELTACOME_CUDA_CHECK(
        launch_rotations(rows(stream), f32(inv_freq), half, f32(rotations_), stream.get()));
    rotations_of_ = bytes_of(inv_freq);
  }
  return f32(rotations_);
}

int CudaAttentionPlan::most_splits(int64_t window) const {
  if (splits_ > 0) {
    return window > 0 ? std::min(splits_, static_cast<int>(window / kSplitKeys) + 2) : splits_;
  }
  int64_t most = 1;
  for (const int32_t row : singles_) {
    const int64_t last = host_[static_cast<size_t>(row)];  // its position
    const int64_t first = window > 0 ? std::max<int64_t>(0, last - window + 1) : 0;
    most = std::max(most, last / kSplitKeys - first / kSplitKeys + 1);
  }
  return static_cast<int>(most);
}

void CudaAttentionPlan::attention(CudaStream& stream, const Attention& args) const {
  if (!singles_.empty()) {
    const auto n = static_cast<int64_t>(singles_.size());
    const int n_splits = most_splits(args.window);
    AttentionRows of_rows{.of = args,
                          .row_ids = table(stream, singles_at_),
                          .n = static_cast<int>(n),
                          .n_splits = n_splits,
                          .overlaps = context_.overlaps};
    if (n_splits > 1) {
      const int64_t size = n * args.n_heads * n_splits * (args.head_dim + 2);
      if (partials_.empty() || partials_.size() < size)
        partials_ = context_.allocate(DType::kF32, {size});
      if (arrivals_.empty() || arrivals_.size() < n * args.n_heads) {
        arrivals_ = context_.allocate(DType::kI32, {n * args.n_heads});
        DELTACOME_CUDA_CHECK(cudaMemsetAsync(bytes_of(arrivals_), 0,
                                             static_cast<size_t>(arrivals_.bytes()), stream.get()));
      }
      of_rows.partials = f32(partials_);
      of_rows.arrivals = reinterpret_cast<int*>(bytes_of(arrivals_));
    }
    DELTACOME_CUDA_CHECK(launch_attention_rows(of_rows, stream.get()));
  }
  if (!tiles_.empty()) {
    const auto* tiles = reinterpret_cast<const QueryTile*>(table(stream, tiles_at_));
    const auto n = static_cast<int64_t>(tiles_.size());
    const Tensor flags = context_.allocate(DType::kI32, {n, args.n_heads});
    DELTACOME_CUDA_CHECK(
        launch_attention_mma(args, tiles, static_cast<int>(n), i32(flags), stream.get()));
    DELTACOME_CUDA_CHECK(
        launch_attention_tiles(args, tiles, static_cast<int>(n), i32(flags), stream.get()));
  }
}

void rope(CudaStream& stream, const CudaAttentionPlan& plan, const Tensor& x,
          const Tensor& inv_freq) {
  const int64_t half = inv_freq.size();
  DELTACOME_CHECK(x.rows() == plan.n_rows() && half > 0 && x.cols() % (2 * half) == 0);
  DELTACOME_CUDA_CHECK(launch_rope({.table = plan.rotations(stream, inv_freq),
                                    .x = f32(x),
                                    .n_rows = x.rows(),
                                    .n_heads = x.cols() / (2 * half),
                                    .half = half,
                                    .overlaps = plan.overlaps()},
                                   stream.get()));
}

void store_kv(CudaStream& stream, const CudaAttentionPlan& plan, const Tensor& k, const Tensor& v,
              const Tensor& k_cache, const Tensor& v_cache) {
  const int64_t width = k.cols();
  const bool coded = k_cache.dtype == DType::kU8;
  const int64_t elements = k_cache.cols() / kKvBlock;  // of a token
  const int64_t n_heads = coded ? (elements - width) / 4 : 1;
  DELTACOME_CHECK(k.rows() == plan.n_rows() && v.shape == k.shape);
  DELTACOME_CHECK(n_heads > 0 && width % n_heads == 0);
  DELTACOME_CHECK(k_cache.cols() == kKvBlock * kv_row(k_cache.dtype, n_heads, width / n_heads));
  DELTACOME_CHECK(v_cache.dtype == k_cache.dtype && v_cache.shape == k_cache.shape);
  DELTACOME_CHECK(plan.n_blocks() <= k_cache.rows());
  DELTACOME_CUDA_CHECK(launch_store_kv({.rows = plan.rows(stream),
                                        .k = f32(k),
                                        .v = f32(v),
                                        .k_cache = cache_of(k_cache),
                                        .v_cache = cache_of(v_cache),
                                        .n_heads = static_cast<int>(n_heads),
                                        .head_dim = static_cast<int>(width / n_heads),
                                        .overlaps = plan.overlaps()},
                                       stream.get()));
}

void attention(CudaStream& stream, const CudaAttentionPlan& plan, const AttentionShape& shape,
               const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, const Tensor& out) {
  DELTACOME_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0);
  DELTACOME_CHECK(q.rows() == plan.n_rows() && q.cols() == shape.n_heads * shape.head_dim);
  DELTACOME_CHECK(out.shape == q.shape && plan.n_blocks() <= k_cache.rows());
  DELTACOME_CHECK(k_cache.cols() ==
                  kKvBlock * kv_row(k_cache.dtype, shape.n_kv_heads, shape.head_dim));
  if (!has_attention(static_cast<int>(shape.head_dim))) {
    fail(ErrorCode::kUnsupported,
         "attention heads of {} on the GPU, expected 16, 32, 64, 80, 96 or 128", shape.head_dim);
  }
  plan.attention(stream, {.rows = plan.rows(stream),
                          .k = cache_of(k_cache),
                          .v = cache_of(v_cache),
                          .q = f32(q),
                          .out = f32(out),
                          .n_heads = static_cast<int>(shape.n_heads),
                          .n_kv_heads = static_cast<int>(shape.n_kv_heads),
                          .head_dim = static_cast<int>(shape.head_dim),
                          .window = static_cast<int>(shape.window)});
}

}  // namespace deltacome::cuda
