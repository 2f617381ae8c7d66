// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/attention.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/cpu/test_support.h"

namespace deltacome::cpu {
namespace {

using namespace testing;

struct Sequence {
  int64_t n_tokens = 0;
  std::vector<float> q, k, v;
  std::vector<int32_t> blocks;
};

/// Random sequences whose blocks are scattered over one cache.
class AttentionTest : public EachIsa {
 protected:
  void make(const AttentionShape& shape, const std::vector<int64_t>& lengths) {
    shape_ = shape;
    int32_t n_blocks = 1;
    for (const int64_t n : lengths) n_blocks += static_cast<int32_t>(ceil_div(n, kKvBlock));
    std::vector<int32_t> free(static_cast<size_t>(n_blocks));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), rng_);
    sequences_.clear();
    for (const int64_t n : lengths) {
      Sequence s{.n_tokens = n,
                 .q = random_floats(rng_, n * shape.n_heads * shape.head_dim),
                 .k = random_floats(rng_, n * shape.n_kv_heads * shape.head_dim),
                 .v = random_floats(rng_, n * shape.n_kv_heads * shape.head_dim),
                 .blocks = {}};
      for (int64_t i = 0; i < ceil_div(n, kKvBlock); ++i) {
        s.blocks.push_back(free.back());
        free.pop_back();
      }
      sequences_.push_back(std::move(s));
    }
    const Shape cache = {n_blocks, kKvBlock, shape.n_kv_heads * shape.head_dim};
    const float nan = std::numeric_limits<float>::quiet_NaN();  // what was never stored is not read
    k_cache_ = device_tensor(backend_, cache,
                             std::vector<float>(static_cast<size_t>(element_count(cache)), nan));
    v_cache_ = device_tensor(backend_, cache,
                             std::vector<float>(static_cast<size_t>(element_count(cache)), nan));
  }

  /// Empty caches of another type instead.
  void make_caches(DType dtype) {
    const Shape shape = {k_cache_.shape[0], kKvBlock,
                         kv_row(dtype, shape_.n_kv_heads, shape_.head_dim)};
    k_cache_ = backend_.allocate(dtype, shape);
    v_cache_ = backend_.allocate(dtype, shape);
  }

  struct Piece {
    size_t sequence;
    int64_t begin, end;
  };
  static std::vector<float> rows(const std::vector<float>& all, int64_t width, const Piece& p) {
    return {all.begin() + p.begin * width, all.begin() + p.end * width};
  }

  /// One batched step; returns the outputs of its pieces one after another.
  std::vector<float> step(const std::vector<Piece>& pieces) {
    std::vector<SequenceChunk> chunks;
    std::vector<float> q, k, v;
    const int64_t q_width = shape_.n_heads * shape_.head_dim;
    const int64_t kv_width = shape_.n_kv_heads * shape_.head_dim;
    for (const Piece& p : pieces) {
      const Sequence& s = sequences_[p.sequence];
      chunks.push_back({p.end - p.begin, p.begin, s.blocks});
      for (const auto& [to, from, width] :
           {std::tuple{&q, &s.q, q_width}, std::tuple{&k, &s.k, kv_width},
            std::tuple{&v, &s.v, kv_width}}) {
        const std::vector<float> part = rows(*from, width, p);
        to->insert(to->end(), part.begin(), part.end());
      }
    }
    const auto n = static_cast<int64_t>(q.size()) / q_width;
    const auto plan = backend_.plan_attention(chunks);
    backend_.store_kv(*stream_, *plan, device_tensor(backend_, {n, kv_width}, k),
                      device_tensor(backend_, {n, kv_width}, v), k_cache_, v_cache_);
    Guarded out(backend_, n, q_width);
    backend_.attention(*stream_, *plan, shape_, device_tensor(backend_, {n, q_width}, q), k_cache_,
                       v_cache_, out.tensor());
    EXPECT_TRUE(out.intact());
    return {f32(out.tensor()), f32(out.tensor()) + n * q_width};
  }

  /// In double; also the bound's magnitude sum(p |v|) and the largest |q k|.
  void check(const std::vector<float>& got, const Piece& piece, size_t offset) {
    const Sequence& s = sequences_[piece.sequence];
    const int64_t d = shape_.head_dim, group = shape_.n_heads / shape_.n_kv_heads;
    const auto at = [d](const std::vector<float>& x, int64_t token, int64_t heads, int64_t head,
                        int64_t i) {
      return static_cast<double>(x[static_cast<size_t>((token * heads + head) * d + i)]);
    };
    for (int64_t t = piece.begin; t < piece.end; ++t) {
      for (int64_t h = 0; h < shape_.n_heads; ++h) {
        const int64_t first = shape_.window == 0 ? 0 : std::max<int64_t>(0, t - shape_.window + 1);
        std::vector<double> p;
        double sum = 0, size = 0;
        for (int64_t j = first; j <= t; ++j) {
          double score = 0, magnitude = 0;
          for (int64_t i = 0; i < d; ++i) {
            const double product =
                at(s.q, t, shape_.n_heads, h, i) * at(s.k, j, shape_.n_kv_heads, h / group, i);
            score += product;
            magnitude += std::abs(product);
          }
          p.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
          size = std::max(size, magnitude);
          sum += p.back();
        }
        // Scores err by gamma_d |q||k|, which exp turns into a relative error of the weights.
        const double relative =
            4 * gamma_k(d + 8) * size / std::sqrt(static_cast<double>(d)) + 2e-6;
        for (int64_t i = 0; i < d; ++i) {
          double want = 0, magnitude = 0;
          for (int64_t j = first; j <= t; ++j) {
            const double term = p[static_cast<size_t>(j - first)] / sum *
                                at(s.v, j, shape_.n_kv_heads, h / group, i);
            want += term;
            magnitude += std::abs(term);
          }
          const size_t index =
              offset + static_cast<size_t>(((t - piece.begin) * shape_.n_heads + h) * d + i);
          ASSERT_NEAR(got[index], want, (relative + gamma_k(t - first + 8)) * magnitude)
              << "token " << t << " head " << h;
        }
      }
    }
  }

  AttentionShape shape_;
  std::vector<Sequence> sequences_;
  Tensor k_cache_, v_cache_;
};
DELTACOME_FOR_EACH_ISA(AttentionTest);

TEST_P(AttentionTest, ACacheOfBf16EqualsOneOfF32WithRoundedKeysAndValues) {
  const AttentionShape shape{6, 2, 20, 0};
  make(shape, {37, 5});
  for (Sequence& s : sequences_) {
    for (std::vector<float>* x : {&s.k, &s.v}) {
      for (float& value : *x) value = bf16_to_float(float_to_bf16(value));
    }
  }
  const std::vector<Piece> pieces = {{0, 0, 37}, {1, 0, 5}};
  const std::vector<float> want = step(pieces);
  make_caches(DType::kBf16);
  EXPECT_EQ(step(pieces), want);
}

TEST_P(AttentionTest, ACacheOfCodesEqualsOneOfF32WithTheDecodedKeysAndValues) {
  const AttentionShape shape{6, 2, 20, 0};
  make(shape, {37, 5});
  for (Sequence& s : sequences_) {
    for (std::vector<float>* x : {&s.k, &s.v}) {
      std::fill_n(x->begin() + 3 * 20, 20, 0.0f);  // a head that is nothing
      for (auto head = x->begin(); head != x->end(); head += 20) {
        // Whole numbers times a power of two, the largest 127: their codes are exact.
        float largest = 0;
        for (int i = 0; i < 20; ++i) largest = std::max(largest, std::abs(head[i]));
        if (largest == 0) continue;
        for (int i = 0; i < 20; ++i) head[i] = std::round(head[i] / largest * 127) * 0.0078125f;
      }
    }
  }
  const std::vector<Piece> pieces = {{0, 0, 37}, {1, 0, 5}};
  const std::vector<float> want = step(pieces);
  make_caches(DType::kU8);
  EXPECT_EQ(step(pieces), want);
}

TEST_P(AttentionTest, CodesErrByHalfAStepOfTheirHead) {
  for (const int64_t n : {1, 7, 16, 20, 64, 80, 128}) {
    std::vector<float> x = random_floats(rng_, n), y(x.size());
    std::vector<int8_t> codes(x.size());
    const float scale = GetParam()->encode_int8(x.data(), n, codes.data());
    GetParam()->decode_int8(codes.data(), n, scale, y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], scale * 0.5001f) << n;
    EXPECT_EQ(std::abs(*std::ranges::max_element(
                  codes, {}, [](int8_t c) { return std::abs(static_cast<int>(c)); })),
              127);
  }
}

const std::vector<AttentionShape> kShapes = {{2, 2, 2, 0},  {4, 2, 16, 0}, {6, 2, 20, 0},
                                             {4, 1, 64, 0}, {2, 2, 16, 7}, {4, 2, 34, 16},
                                             {3, 1, 80, 1}};

TEST_P(AttentionTest, FollowsTheDoubleReferenceForRaggedBatches) {
  for (const AttentionShape& shape : kShapes) {
    make(shape, {1, 37, 16, 50});
    const std::vector<Piece> pieces = {{0, 0, 1}, {1, 0, 37}, {2, 0, 16}, {3, 0, 50}};
    const std::vector<float> got = step(pieces);
    size_t offset = 0;
    for (const Piece& p : pieces) {
      check(got, p, offset);
      offset += static_cast<size_t>((p.end - p.begin) * shape.n_heads * shape.head_dim);
    }
  }
}

TEST_P(AttentionTest, ChunksAndOtherSequencesDoNotChangeABit) {
  for (const AttentionShape& shape : kShapes) {
    make(shape, {53, 29});
    if (shape.head_dim == 16) make_caches(DType::kU8);
    const std::vector<float> whole = step({{0, 0, 53}});
    for (const int64_t size : {1, 7, 16, 31}) {
      std::vector<float> pieces;
      for (int64_t begin = 0; begin < 53; begin += size) {
        const int64_t end = std::min<int64_t>(begin + size, 53);
        // The other sequence comes first and in pieces of its own.
        const int64_t other = std::min<int64_t>(begin, 28);
        const std::vector<float> got = step({{1, other, other + 1}, {0, begin, end}});
        pieces.insert(pieces.end(), got.begin() + shape.n_heads * shape.head_dim, got.end());
      }
      EXPECT_EQ(pieces, whole) << "chunks of " << size << ", head_dim " << shape.head_dim;
    }
  }
}

TEST_P(AttentionTest, ATokenThatIsNotFiniteChangesNoQueryThatDoesNotSeeIt) {
  for (const AttentionShape& shape : kShapes) {
    make(shape, {37});
    if (shape.head_dim == 16) make_caches(DType::kU8);
    const std::vector<float> want = step({{0, 0, 37}});
    const int64_t bad = 19, kv_width = shape.n_kv_heads * shape.head_dim;
    for (int64_t i = bad * kv_width; i < (bad + 1) * kv_width; ++i) {
      sequences_[0].k[static_cast<size_t>(i)] = std::numeric_limits<float>::quiet_NaN();
      sequences_[0].v[static_cast<size_t>(i)] = std::numeric_limits<float>::infinity();
    }
    const std::vector<float> got = step({{0, 0, 37}});
    for (size_t i = 0; i < want.size(); ++i) {
      const auto token = static_cast<int64_t>(i) / (shape.n_heads * shape.head_dim);
      const bool sees = token >= bad && (shape.window == 0 || token < bad + shape.window);
      if (sees) {
        ASSERT_FALSE(std::isfinite(got[i])) << "token " << token;
      } else {
        ASSERT_EQ(got[i], want[i]) << "token " << token << " head_dim " << shape.head_dim;
      }
    }
  }
}

TEST_P(AttentionTest, RopeRotatesPairsByPosition) {
  const int64_t heads = 3, half = 5, n = 4, past = 1000;
  std::vector<float> inv_freq;
  for (int i = 0; i < half; ++i) inv_freq.push_back(static_cast<float>(std::pow(100.0, -i / 5.0)));
  const std::vector<int32_t> blocks(64, 0);
  const std::vector<SequenceChunk> chunks = {{1, 0, blocks}, {3, past, blocks}};
  const auto plan = backend_.plan_attention(chunks);
  const std::vector<float> x = random_floats(rng_, n * heads * 2 * half);
  Guarded y(backend_, n, heads * 2 * half);
  std::ranges::copy(x, f32(y.tensor()));
  backend_.rope(*stream_, *plan, y.tensor(), device_tensor(backend_, {half}, inv_freq));
  for (int64_t r = 0; r < n; ++r) {
    const auto position = static_cast<double>(r == 0 ? 0 : past + r - 1);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * static_cast<double>(inv_freq[static_cast<size_t>(i)]);
        const auto at = static_cast<size_t>((r * heads + h) * 2 * half + i);
        const double a = x[at], b = x[at + half];
        const double tolerance = (std::abs(a) + std::abs(b)) * (0x1p-23 * (angle + 4));
        EXPECT_NEAR(y.at(r, h * 2 * half + i), a * std::cos(angle) - b * std::sin(angle),
                    tolerance);
        EXPECT_NEAR(y.at(r, h * 2 * half + half + i), b * std::cos(angle) + a * std::sin(angle),
                    tolerance);
      }
    }
  }
  EXPECT_TRUE(y.intact());
}

}  // namespace
}  // namespace deltacome::cpu
