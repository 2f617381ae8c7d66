// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <numeric>

#include "backend/cuda/test_support.h"

namespace deltacome::cuda {
namespace {

using namespace testing;

struct Chunk {
  int64_t n_past, n_rows;
};

/// Random sequences whose past is in a cache that both devices have; what was never stored is NaN.
class AttentionTest : public CudaTest {
 protected:
  struct Sequences {
    std::vector<std::vector<int32_t>> blocks;
    int64_t n_blocks = 0, n_rows = 0;
    std::vector<Chunk> chunks;

    std::vector<SequenceChunk> past() const {
      std::vector<SequenceChunk> out;
      for (size_t i = 0; i < chunks.size(); ++i) out.push_back({chunks[i].n_past, 0, blocks[i]});
      return out;
    }
    std::vector<SequenceChunk> now() const {
      std::vector<SequenceChunk> out;
      for (size_t i = 0; i < chunks.size(); ++i)
        out.push_back({chunks[i].n_rows, chunks[i].n_past, blocks[i]});
      return out;
    }
  };

  Sequences scatter(std::vector<Chunk> chunks) {
    Sequences s{.blocks = {}, .chunks = std::move(chunks)};
    std::vector<int32_t> free;
    for (const Chunk& c : s.chunks) {
      s.n_blocks += (c.n_past + c.n_rows + kKvBlock - 1) / kKvBlock;
      s.n_rows += c.n_rows;
    }
    s.n_blocks += 1;
    free.resize(static_cast<size_t>(s.n_blocks));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), rng_);
    for (const Chunk& c : s.chunks) {
      s.blocks.emplace_back();
      for (int64_t i = 0; i < (c.n_past + c.n_rows + kKvBlock - 1) / kKvBlock; ++i) {
        s.blocks.back().push_back(free.back());
        free.pop_back();
      }
    }
    return s;
  }

  struct Inputs {
    std::vector<float> past_k, past_v, q, k, v;
  };

  Tensor empty_cache(Device& device, DType dtype, int64_t n_blocks, const AttentionShape& shape) {
    const Tensor cache = device.backend->allocate(
        dtype, {n_blocks, kKvBlock, kv_row(dtype, shape.n_kv_heads, shape.head_dim)});
    // All bits set is a NaN in f32 and bf16, and a NaN scale of codes.
    const std::vector<std::byte> nan(static_cast<size_t>(cache.bytes()), std::byte{0xff});
    device.backend->upload(*device.stream, nan, cache);
    return cache;
  }

  std::vector<float> run(Device& device, const AttentionShape& shape, DType dtype,
                         const Sequences& s, const Inputs& in) {
    Backend& b = *device.backend;
    const int64_t kv = shape.n_kv_heads * shape.head_dim, width = shape.n_heads * shape.head_dim;
    const Tensor k_cache = empty_cache(device, dtype, s.n_blocks, shape);
    const Tensor v_cache = empty_cache(device, dtype, s.n_blocks, shape);
    const auto past = b.plan_attention(s.past());
    const auto n_past = static_cast<int64_t>(in.past_k.size()) / kv;
    b.store_kv(*device.stream, *past, device.put({n_past, kv}, in.past_k),
               device.put({n_past, kv}, in.past_v), k_cache, v_cache);
    const auto plan = b.plan_attention(s.now());
    b.store_kv(*device.stream, *plan, device.put({s.n_rows, kv}, in.k),
               device.put({s.n_rows, kv}, in.v), k_cache, v_cache);
    Guarded out(device, s.n_rows, width);
    // Twice, as two layers use a plan: what the first leaves behind is no harm to the second.
    for (int layer = 0; layer < 2; ++layer) {
      b.attention(*device.stream, *plan, shape, device.put({s.n_rows, width}, in.q), k_cache,
                  v_cache, out.tensor());
    }
    return out.get();
  }

  /// Random. Of a cache of codes the keys and values are whole numbers times a power of two, the
  /// largest of a head 127: their codes are exact.
  Inputs inputs(const Sequences& s, const AttentionShape& shape, DType dtype) {
    int64_t n_past = 0;
    for (const Chunk& c : s.chunks) n_past += c.n_past;
    const int64_t kv = shape.n_kv_heads * shape.head_dim, width = shape.n_heads * shape.head_dim;
    Inputs in{random_floats(rng_, n_past * kv), random_floats(rng_, n_past * kv),
              random_floats(rng_, s.n_rows * width), random_floats(rng_, s.n_rows * kv),
              random_floats(rng_, s.n_rows * kv)};
    if (dtype != DType::kU8) return in;
    for (std::vector<float>* x : {&in.past_k, &in.past_v, &in.k, &in.v}) {
      for (auto head = x->begin(); head != x->end(); head += shape.head_dim) {
        float largest = 0;
        for (int64_t i = 0; i < shape.head_dim; ++i) largest = std::max(largest, std::abs(head[i]));
        for (int64_t i = 0; i < shape.head_dim; ++i)
          head[i] = std::round(head[i] / largest * 127) * 0x1p-6f;
      }
    }
    return in;
  }

  static double largest_norm(const std::vector<float>& x, int64_t head_dim) {
    double largest = 0;
    for (auto head = x.begin(); head != x.end(); head += head_dim) {
      double squares = 0;
      for (int64_t i = 0; i < head_dim; ++i)
        squares += static_cast<double>(head[i]) * static_cast<double>(head[i]);
      largest = std::max(largest, std::sqrt(squares));
    }
    return largest;
  }

  void check(const AttentionShape& shape, DType dtype, const std::vector<Chunk>& chunks) {
    const Sequences s = scatter(chunks);
    const Inputs in = inputs(s, shape, dtype);
    const std::vector<float> want = run(cpu_, shape, dtype, s, in);
    const std::vector<float> got = run(gpu(), shape, dtype, s, in);
    Inputs positive = in;
    positive.past_v = magnitudes(in.past_v);
    positive.v = magnitudes(in.v);
    const std::vector<float> size = run(cpu_, shape, dtype, s, positive);  // sum of weight * |v|
    // A score errs by gamma |q||k| / sqrt(d), which exp turns into a relative error of its weight
    // and of their sum; both devices err.
    const int64_t d = shape.head_dim;
    const double qk =
        largest_norm(in.q, d) * std::max(largest_norm(in.k, d), largest_norm(in.past_k, d));
    int64_t longest = 0;
    for (const Chunk& c : chunks) longest = std::max(longest, c.n_past + c.n_rows);
    const double relative = 4 * gamma_k(d + 8) * qk / std::sqrt(static_cast<double>(d)) +
                            2 * gamma_k(longest + 16) + 8e-6;
    std::vector<double> bounds;
    for (const float v : size) bounds.push_back(relative * static_cast<double>(v));
    expect_close(got, want, bounds,
                 "heads " + std::to_string(shape.n_heads) + "/" + std::to_string(shape.n_kv_heads) +
                     " of " + std::to_string(d) + " window " + std::to_string(shape.window) + " " +
                     std::string(dtype_name(dtype)));
  }
};

const std::vector<AttentionShape> kShapes = {
    {4, 4, 16, 0},  {4, 2, 32, 16},  {6, 2, 64, 0}, {8, 1, 64, 100}, {4, 4, 80, 0},
    {3, 1, 80, 33}, {4, 2, 96, 300}, {2, 2, 96, 0}, {8, 8, 128, 0},  {8, 2, 128, 0},
    {8, 1, 128, 0}, {2, 1, 128, 1},  {5, 1, 128, 0}};
const std::vector<DType> kTypes = {DType::kF32, DType::kBf16, DType::kU8};

TEST_F(AttentionTest, SingleRowsFollowTheCpuForRaggedLengths) {
  for (const AttentionShape& shape : kShapes) {
    for (const DType dtype : kTypes) {
      check(shape, dtype,
            {{0, 1}, {1, 1}, {15, 1}, {16, 1}, {255, 1}, {256, 1}, {257, 1}, {700, 1}, {40, 3}});
    }
  }
}

TEST_F(AttentionTest, PromptsFollowTheCpuForRaggedLengths) {
  for (const AttentionShape& shape : kShapes) {
    for (const DType dtype : kTypes)
      check(shape, dtype, {{0, 5}, {0, 64}, {3, 65}, {130, 129}, {16, 31}});
  }
}

TEST_F(AttentionTest, PromptsAndSingleRowsMix) {
  for (const DType dtype : kTypes)
    check({8, 2, 128, 0}, dtype, {{600, 1}, {0, 70}, {33, 4}, {0, 1}, {129, 40}, {1030, 2}});
}

TEST_F(AttentionTest, ASingleRowHasTheSameBitsInAnyCompany) {
  const AttentionShape shape{8, 2, 128, 0};
  const Sequences s = scatter({{700, 1}, {30, 1}, {1500, 1}, {0, 40}});
  const Inputs in = inputs(s, shape, DType::kBf16);
  const std::vector<float> all = run(gpu(), shape, DType::kBf16, s, in);
  Sequences alone = s;
  alone.chunks = {s.chunks[0]};
  alone.blocks = {s.blocks[0]};
  alone.n_rows = 1;
  const int64_t kv = shape.n_kv_heads * shape.head_dim, width = shape.n_heads * shape.head_dim;
  const auto first = [](const std::vector<float>& x, int64_t n) {
    return std::vector<float>(x.begin(), x.begin() + n);
  };
  const Inputs part{first(in.past_k, 700 * kv), first(in.past_v, 700 * kv), first(in.q, width),
                    first(in.k, kv), first(in.v, kv)};
  EXPECT_TRUE(run(gpu(), shape, DType::kBf16, alone, part) == first(all, width));
}

TEST_F(AttentionTest, ABrokenTokenHarmsNoneBeforeIt) {
  const AttentionShape shape{2, 2, 64, 0};
  for (const int64_t n_rows : {3, 70}) {
    const Sequences s = scatter({{20, n_rows}});
    Inputs in = inputs(s, shape, DType::kF32);
    const std::vector<float> want = run(gpu(), shape, DType::kF32, s, in);
    const int64_t width = 2 * 64, broken = n_rows - 2;
    in.v[static_cast<size_t>(broken * width)] = std::numeric_limits<float>::quiet_NaN();
    in.k[static_cast<size_t>(broken * width)] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> got = run(gpu(), shape, DType::kF32, s, in);
    for (int64_t i = 0; i < broken * width; ++i)
      ASSERT_NEAR(got[static_cast<size_t>(i)], want[static_cast<size_t>(i)], 1e-5F) << i;
    EXPECT_TRUE(std::isnan(got[static_cast<size_t>(broken * width)]));
  }
}

TEST_F(AttentionTest, TheCacheHoldsTheBytesOfTheCpu) {
  const AttentionShape shape{2, 2, 80, 0};
  const Sequences s = scatter({{0, 37}, {5, 1}});
  std::vector<float> k = random_floats(rng_, s.n_rows * 160), v = k;
  std::fill_n(k.begin() + 160, 80, 0.0f);  // a head that is nothing
  k[1] = std::numeric_limits<float>::quiet_NaN();
  v[81] = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    std::vector<std::vector<uint8_t>> bytes;
    for (Device* device : {&cpu_, &gpu()}) {
      const Tensor k_cache = empty_cache(*device, dtype, s.n_blocks, shape);
      const Tensor v_cache = empty_cache(*device, dtype, s.n_blocks, shape);
      const auto plan = device->backend->plan_attention(s.now());
      device->backend->store_kv(*device->stream, *plan, device->put({s.n_rows, 160}, k),
                                device->put({s.n_rows, 160}, v), k_cache, v_cache);
      bytes.push_back(device->get<uint8_t>(k_cache));
      const std::vector<uint8_t> values = device->get<uint8_t>(v_cache);
      bytes.back().insert(bytes.back().end(), values.begin(), values.end());
    }
    // NaN has many bit patterns; of one element.
    int different = 0;
    for (size_t i = 0; i < bytes[0].size(); ++i) different += bytes[0][i] != bytes[1][i];
    EXPECT_LE(different, static_cast<int>(dtype_bytes(dtype))) << dtype_name(dtype);
  }
}

TEST_F(AttentionTest, RopeFollowsTheCpuAtAnyPosition) {
  for (const int64_t half : {1, 8, 32, 64}) {
    const int64_t n_heads = 3;
    std::vector<int32_t> blocks(8000);
    std::iota(blocks.begin(), blocks.end(), 0);
    const std::vector<SequenceChunk> chunks = {
        {5, 0, blocks}, {1, 100000, blocks}, {33, 77, blocks}};
    std::vector<float> inv_freq;
    for (int64_t i = 0; i < half; ++i)
      inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
    const std::vector<float> x = random_floats(rng_, 39 * n_heads * 2 * half);
    std::vector<std::vector<float>> results;
    for (Device* device : {&cpu_, &gpu()}) {
      const auto plan = device->backend->plan_attention(chunks);
      const Tensor y = device->put({39, n_heads * 2 * half}, x);
      const Tensor f = device->put({half}, inv_freq);
      device->backend->rope(*device->stream, *plan, y, f);
      device->backend->rope(*device->stream, *plan, y, f);
      results.push_back(device->get(y));
    }
    // cos and sin are each off by at most a last place, twice.
    expect_close(results[1], results[0], std::vector<double>(x.size(), 32 * 0x1p-24 * 5),
                 "half " + std::to_string(half));
  }
}

TEST_F(AttentionTest, RefusesWhatItHasNoKernelFor) {
  const std::vector<int32_t> blocks = {0};
  const SequenceChunk chunk{1, 0, blocks};
  const auto plan = gpu().backend->plan_attention({&chunk, 1});
  const Tensor q = gpu().put({1, 20}, std::vector<float>(20, 1.0f));
  const Tensor cache = gpu().backend->allocate(DType::kF32, {1, kKvBlock, 20});
  EXPECT_THROW(gpu().backend->attention(*gpu().stream, *plan, {1, 1, 20, 0}, q, cache, cache, q),
               Error);
  const Tensor half = gpu().backend->allocate(DType::kF16, {1, kKvBlock, 20});
  EXPECT_THROW(gpu().backend->store_kv(*gpu().stream, *plan, q, q, half, half), Error);
}

}  // namespace
}  // namespace deltacome::cuda
