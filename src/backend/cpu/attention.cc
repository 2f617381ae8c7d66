// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_memory.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kQueryTile = 8;  // queries of one kv head that share the reading of its keys

/// A few queries of one sequence and the query heads of one kv head.
struct QueryTile {
  const CpuAttentionPlan::Chunk* chunk = nullptr;
  int64_t kv_head = 0;
  int64_t first = 0;  // query inside the chunk
  int64_t count = 0;

  int64_t end_key() const noexcept { return chunk->n_past + first + count; }
};

constexpr int64_t kScaleBytes = 4;  // behind the codes of a head

/// Of the values that the kernels see: codes are decoded before.
WeightType weight_type_of(DType dtype) {
  return dtype == DType::kBf16 ? WeightType::kBf16 : WeightType::kF32;
}

/// Attention of one call: the caches and what does not change from tile to tile.
class AttentionCall {
 public:
  AttentionCall(const Runtime& runtime, const AttentionShape& shape, const Tensor& q,
                const Tensor& k_cache, const Tensor& v_cache, const Tensor& out)
      : runtime_(runtime),
        shape_(shape),
        q_(f32(q)),
        type_(weight_type_of(k_cache.dtype)),
        coded_(k_cache.dtype == DType::kU8),
        element_bytes_(dtype_bytes(coded_ ? DType::kF32 : k_cache.dtype)),
        row_bytes_(k_cache.cols() / kKvBlock * dtype_bytes(k_cache.dtype)),
        head_bytes_(row_bytes_ / shape.n_kv_heads),
        k_(bytes_of(k_cache)),
        v_(bytes_of(v_cache)),
        out_(f32(out)),
        per_kv_(shape.n_heads / shape.n_kv_heads),
        stride_(coded_ ? shape.head_dim : shape.n_kv_heads * shape.head_dim),
        q_width_(shape.n_heads * shape.head_dim) {}

  void run(const QueryTile& tile) const {
    const int64_t n = tile.count * per_kv_;
    const int64_t first_block = first_key(tile, 0) / kKvBlock;  // blocks before are not seen
    const int64_t origin = first_block * kKvBlock;
    const int64_t width = ceil_div(tile.end_key() - origin, kKvBlock) * kKvBlock;
    float* scratch = thread_scratch(n * width + (coded_ ? kKvBlock * shape_.head_dim : 0)).data();
    float* decoded = scratch + n * width;
    std::vector<const float*> queries, weights;
    std::vector<float*> scores, results;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = tile.chunk->first_row + tile.first + i / per_kv_;
      const int64_t head = tile.kv_head * per_kv_ + i % per_kv_;
      queries.push_back(q_ + row * q_width_ + head * shape_.head_dim);
      results.push_back(out_ + row * q_width_ + head * shape_.head_dim);
      scores.push_back(scratch + i * width);
      weights.push_back(scores.back());
      std::fill_n(results.back(), shape_.head_dim, 0.0f);
    }
    for (int64_t key = origin; key < tile.end_key(); key += kKvBlock)
      score_block(tile, key, key - origin, queries, scores, decoded);
    std::vector<float> inverse_sums;
    for (int64_t i = 0; i < n; ++i)
      inverse_sums.push_back(1.0f /
                             normalize(tile, i, origin, width, scores[static_cast<size_t>(i)]));
    for (int64_t key = origin; key < tile.end_key(); key += kKvBlock)
      mix_block(tile, key, key - origin, weights, results, decoded);
    for (int64_t i = 0; i < n; ++i) {
      float* result = results[static_cast<size_t>(i)];
      for (int64_t d = 0; d < shape_.head_dim; ++d)
        result[d] *= inverse_sums[static_cast<size_t>(i)];
    }
  }

 private:
  int64_t position(const QueryTile& tile, int64_t i) const {
    return tile.chunk->n_past + tile.first + i / per_kv_;
  }
  int64_t first_key(const QueryTile& tile, int64_t i) const {
    return shape_.window == 0 ? 0 : std::max<int64_t>(0, position(tile, i) - shape_.window + 1);
  }
  /// First element of a block's keys or values of the tile's kv head, stride_ apart; of codes, what
  /// `decoded` holds of those that the tile sees.
  const std::byte* block(const std::byte* cache, const QueryTile& tile, int64_t key,
                         float* decoded) const {
    const int64_t id = tile.chunk->blocks[static_cast<size_t>(key / kKvBlock)];
    const std::byte* first = cache + id * kKvBlock * row_bytes_ + tile.kv_head * head_bytes_;
    if (!coded_) return first;
    const int64_t n = std::min(kKvBlock, tile.end_key() - key);
    for (int64_t i = 0; i < n; ++i) {
      const std::byte* row = first + i * row_bytes_;
      float scale = 0;
      std::memcpy(&scale, row + shape_.head_dim, sizeof scale);
      runtime_.kernels.decode_int8(reinterpret_cast<const int8_t*>(row), shape_.head_dim, scale,
                                   decoded + i * shape_.head_dim);
    }
    return reinterpret_cast<const std::byte*>(decoded);
  }

  /// Keys of a block that a query sees, counted from the block's first.
  struct KeyRange {
    int64_t begin = 0, end = 0;
    bool operator==(const KeyRange&) const = default;
  };
  KeyRange seen_of(const QueryTile& tile, int64_t i, int64_t key) const {
    return {std::max<int64_t>(first_key(tile, i) - key, 0),
            std::min(position(tile, i) + 1 - key, kKvBlock)};
  }

  void score_block(const QueryTile& tile, int64_t key, int64_t at,
                   const std::vector<const float*>& queries, const std::vector<float*>& scores,
                   float* decoded) const {
    runtime_.kernels.dot({.x = queries.data(),
                          .n_rows = static_cast<int64_t>(queries.size()),
                          .w = block(k_, tile, key, decoded),
                          .type = type_,
                          .w_stride = stride_,
                          .n_out = std::min(kKvBlock, tile.end_key() - key),
                          .k = shape_.head_dim,
                          .y = scores.data(),
                          .y_offset = at});
  }

  /// Scores become weights, 0 for keys that the query does not see; returns the weights' sum.
  float normalize(const QueryTile& tile, int64_t i, int64_t origin, int64_t width,
                  float* scores) const {
    const int64_t begin = first_key(tile, i) - origin;
    const int64_t end = position(tile, i) + 1 - origin;
    std::fill(scores, scores + begin, 0.0f);
    std::fill(scores + end, scores + width, 0.0f);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape_.head_dim)));
    return runtime_.kernels.softmax(scores + begin, end - begin, scale);
  }

  /// A block's values are summed from 0 and then added; blocks start at multiples of kKvBlock of
  /// the sequence: the order is the same for every tile. A query reads no value of a key that it
  /// does not see, since 0 times one that is not finite would be NaN: queries that see other parts
  /// of the block go in calls of their own, in the last blocks of a tile and the first of a window.
  void mix_block(const QueryTile& tile, int64_t key, int64_t at,
                 const std::vector<const float*>& weights, const std::vector<float*>& results,
                 float* decoded) const {
    const auto n = static_cast<int64_t>(weights.size());
    const std::byte* values = block(v_, tile, key, decoded);
    for (int64_t i = 0, end = 0; i < n; i = end) {
      const KeyRange seen = seen_of(tile, i, key);
      end = i + per_kv_;
      while (end < n && seen_of(tile, end, key) == seen) end += per_kv_;
      if (seen.end <= seen.begin) continue;
      runtime_.kernels.accumulate({.z = weights.data() + i,
                                   .z_offset = at + seen.begin,
                                   .n_rows = end - i,
                                   .u = values + element_bytes_ * seen.begin * stride_,
                                   .type = type_,
                                   .u_stride = stride_,
                                   .n_terms = seen.end - seen.begin,
                                   .n_cols = shape_.head_dim,
                                   .y = results.data() + i});
    }
  }

  Runtime runtime_;
  AttentionShape shape_;
  const float* q_;         // [n, q_width_]
  WeightType type_;        // of keys and values,
  bool coded_;             // which come from int8 codes
  int64_t element_bytes_;  // of type_
  int64_t row_bytes_;      // of a token in the cache,
  int64_t head_bytes_;     // and of one head of it
  const std::byte* k_;     // [n_blocks, kKvBlock, row_bytes_]
  const std::byte* v_;
  float* out_;      // [n, q_width_]
  int64_t per_kv_;  // query heads of a kv head
  int64_t stride_;  // elements between tokens
  int64_t q_width_;
};

void check_cache_type(const Tensor& cache) {
  if (cache.dtype == DType::kF32 || cache.dtype == DType::kBf16 || cache.dtype == DType::kU8)
    return;
  fail(ErrorCode::kUnsupported, "KV cache of type {} on the CPU, expected F32, BF16 or U8",
       dtype_name(cache.dtype));
}

}  // namespace

CpuAttentionPlan::CpuAttentionPlan(std::span<const SequenceChunk> chunks) {
  for (const SequenceChunk& chunk : chunks) {
    DELTACOME_CHECK(chunk.n_rows >= 0 && chunk.n_past >= 0);
    DELTACOME_CHECK(static_cast<int64_t>(chunk.block_table.size()) * kKvBlock >=
                    chunk.n_past + chunk.n_rows);
    if (chunk.n_rows == 0) continue;
    chunks_.push_back({.first_row = n_rows_,
                       .n_rows = chunk.n_rows,
                       .n_past = chunk.n_past,
                       .blocks = {chunk.block_table.begin(), chunk.block_table.end()}});
    n_rows_ += chunk.n_rows;
  }
}

std::span<const float> CpuAttentionPlan::rotations(std::span<const float> inv_freq) const {
  if (!rotations_.empty() && std::ranges::equal(inv_freq, inv_freq_)) return rotations_;
  inv_freq_.assign(inv_freq.begin(), inv_freq.end());
  rotations_.clear();
  rotations_.reserve(static_cast<size_t>(n_rows_) * 2 * inv_freq.size());
  for (const Chunk& chunk : chunks_) {
    for (int64_t r = 0; r < chunk.n_rows; ++r) {
      const auto position = static_cast<float>(chunk.n_past + r);
      // The angle is rounded to f32 first, as the models were trained.
      for (const float f : inv_freq)
        rotations_.push_back(static_cast<float>(std::cos(static_cast<double>(position * f))));
      for (const float f : inv_freq)
        rotations_.push_back(static_cast<float>(std::sin(static_cast<double>(position * f))));
    }
  }
  return rotations_;
}

void rope(const Runtime& runtime, const CpuAttentionPlan& plan, const Tensor& x,
          const Tensor& inv_freq) {
  const int64_t half = inv_freq.size();
  const int64_t width = x.cols();
  DELTACOME_CHECK(x.rows() == plan.n_rows() && half > 0 && width % (2 * half) == 0);
  const std::span<const float> rotations =
      plan.rotations({f32(inv_freq), static_cast<size_t>(half)});
  runtime.pool.parallel_for(x.rows(), grain_of(x.rows(), x.size()),
                            [&](int64_t begin, int64_t end) {
                              for (int64_t r = begin; r < end; ++r) {
                                const float* cos = rotations.data() + r * 2 * half;
                                const float* sin = cos + half;
                                for (float* head = f32(x) + r * width;
                                     head < f32(x) + (r + 1) * width; head += 2 * half) {
                                  for (int64_t i = 0; i < half; ++i) {
                                    const float a = head[i], b = head[i + half];
                                    head[i] = a * cos[i] - b * sin[i];
                                    head[i + half] = b * cos[i] + a * sin[i];
                                  }
                                }
                              }
                            });
}

void store_kv(const Runtime& runtime, const CpuAttentionPlan& plan, const Tensor& k,
              const Tensor& v, const Tensor& k_cache, const Tensor& v_cache) {
  check_cache_type(k_cache);
  check_cache_type(v_cache);
  const int64_t width = k.cols();
  DELTACOME_CHECK(k.rows() == plan.n_rows() && v.shape == k.shape);
  const bool coded = k_cache.dtype == DType::kU8;
  const int64_t elements = k_cache.cols() / kKvBlock;  // of a token
  const int64_t n_heads = coded ? (elements - width) / kScaleBytes : 1, head = width / n_heads;
  DELTACOME_CHECK(k_cache.cols() == kKvBlock * (coded ? n_heads * (head + kScaleBytes) : width));
  DELTACOME_CHECK(v_cache.dtype == k_cache.dtype && v_cache.shape == k_cache.shape);
  const auto store = [&](const Tensor& from, int64_t row, const Tensor& cache, int64_t at) {
    const float* values = f32(from) + row * width;
    std::byte* to = bytes_of(cache) + at * dtype_bytes(cache.dtype);
    if (!coded) {
      convert_from_float({values, static_cast<size_t>(width)}, cache.dtype, to);
      return;
    }
    for (int64_t h = 0; h < n_heads; ++h, values += head, to += head + kScaleBytes) {
      const float scale = runtime.kernels.encode_int8(values, head, reinterpret_cast<int8_t*>(to));
      std::memcpy(to + head, &scale, sizeof scale);
    }
  };
  for (const CpuAttentionPlan::Chunk& chunk : plan.chunks()) {
    for (int64_t r = 0; r < chunk.n_rows; ++r) {
      const int64_t token = chunk.n_past + r;
      const int64_t block = chunk.blocks[static_cast<size_t>(token / kKvBlock)];
      DELTACOME_CHECK(block >= 0 && block < k_cache.rows());
      const int64_t to = (block * kKvBlock + token % kKvBlock) * elements;
      store(k, chunk.first_row + r, k_cache, to);
      store(v, chunk.first_row + r, v_cache, to);
    }
  }
}

void attention(const Runtime& runtime, const CpuAttentionPlan& plan, const AttentionShape& shape,
               const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, const Tensor& out) {
  check_cache_type(k_cache);
  check_cache_type(v_cache);
  DELTACOME_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0);
  DELTACOME_CHECK(q.rows() == plan.n_rows() && q.cols() == shape.n_heads * shape.head_dim);
  DELTACOME_CHECK(out.shape == q.shape);
  DELTACOME_CHECK(k_cache.cols() ==
                  kKvBlock * kv_row(k_cache.dtype, shape.n_kv_heads, shape.head_dim));
  std::vector<QueryTile> tiles;
  int64_t work = 0;
  for (const CpuAttentionPlan::Chunk& chunk : plan.chunks()) {
    for (int64_t head = 0; head < shape.n_kv_heads; ++head) {
      for (int64_t i = 0; i < chunk.n_rows; i += kQueryTile)
        tiles.push_back({&chunk, head, i, std::min(kQueryTile, chunk.n_rows - i)});
    }
    work += chunk.n_rows * (chunk.n_past + chunk.n_rows) * q.cols();
  }
  const AttentionCall call(runtime, shape, q, k_cache, v_cache, out);
  const auto n = static_cast<int64_t>(tiles.size());
  runtime.pool.parallel_for(n, grain_of(n, work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) call.run(tiles[static_cast<size_t>(i)]);
  });
}

}  // namespace deltacome::cpu
