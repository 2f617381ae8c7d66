// SPDX-License-Identifier: Apache-2.0
#include "bench/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "core/check.h"
#include "core/thread_pool.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

constexpr int64_t kGroup = 128;

/// Cheap random bits (xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }

 private:
  uint64_t state_;
};

void fill_bytes(Random& random, std::byte* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    const uint64_t bits = random.next();
    std::memcpy(out + i, &bits, static_cast<size_t>(std::min<int64_t>(8, n - i)));
  }
}

/// bf16 of either sign with magnitudes in [2^-7, 2^-5).
void fill_bf16(Random& random, std::byte* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 4) {
    const uint64_t bits = (random.next() & 0x80ff80ff80ff80ff) | 0x3c003c003c003c00;
    std::memcpy(out + 2 * i, &bits, static_cast<size_t>(std::min<int64_t>(8, 2 * (n - i))));
  }
}

void fill_with(const Part& part, DType dtype, float value, std::vector<std::byte>& blob) {
  const std::vector<float> values(static_cast<size_t>(part.bytes / dtype_bytes(dtype)), value);
  convert_from_float(values, dtype, blob.data() + part.offset);
}

MatrixFormat of_tiers(const Shape& shape, std::vector<TierFormat> tiers) {
  MatrixFormat format;
  format.codec = Codec::kLowRank;
  format.shape = shape;
  format.base_rows = shape[0];
  format.tiers = std::move(tiers);
  return format;
}

/// Delta-CoMe's mix: 2 components of 8 bits and 32 of 3 bits for 4096, the rest of 2 bits.
MatrixFormat come_format(const Shape& shape, double bits) {
  const int64_t full = std::min(shape[0], shape[1]);
  const auto tier = [](int64_t rank, int width) {
    const bool fills = rank >= kGroup;
    return TierFormat{.rank = rank,
                      .v = {width, 1, kGroup},
                      .u = fills ? ArrayFormat{width, kGroup, 1} : ArrayFormat{width, 1, kGroup}};
  };
  const int64_t n8 = std::max<int64_t>(1, 2 * full / 4096);
  const int64_t n3 = std::min(std::max<int64_t>(1, full / 128), full - n8);
  const int64_t left = full - n8 - n3;
  const double budget = bits * static_cast<double>(shape[0] * shape[1]) / 8;
  const double each = (2 + 16.0 / kGroup) / 8 * static_cast<double>(shape[0] + shape[1]);
  const double fine = static_cast<double>((8 * n8 + 3 * n3) * (shape[0] + shape[1])) / 8;
  const auto rank =
      std::clamp<int64_t>(std::llround((budget - fine) / each), std::min<int64_t>(1, left), left);
  std::vector<TierFormat> tiers = {tier(n8, 8), tier(n3, 3), tier(rank, 2)};
  std::erase_if(tiers, [](const TierFormat& t) { return t.rank == 0; });  // of 1 or 2 components
  return of_tiers(shape, std::move(tiers));
}

/// What `auto` chooses for low ranks: one scale for a tier, gains of rows and columns.
MatrixFormat auto_format(const Shape& shape, double bits) {
  const int64_t full = std::min(shape[0], shape[1]);
  const double each = static_cast<double>(shape[0] + shape[1]) / 4;
  const double budget = bits * static_cast<double>(shape[0] * shape[1]) / 8;
  const auto rank =
      std::clamp<int64_t>(std::llround(budget / each) / 8 * 8, std::min<int64_t>(8, full), full);
  MatrixFormat format = of_tiers(shape, {{.rank = rank, .v = {2, 0, 0}, .u = {2, 0, 0}}});
  format.row_gain = format.col_gain = true;
  return format;
}

MatrixFormat vector_code_format(const Shape& shape, double bits) {
  MatrixFormat format = of_tiers(shape, {});
  format.codec = Codec::kVector;
  int best = kBookDimensions[0];
  for (const int dim : kBookDimensions) {
    if (std::abs(8.0 / dim - bits) < std::abs(8.0 / best - bits)) best = dim;
  }
  format.vector = {.dim = best, .block = rotation_block(shape[1]), .seed = 7};
  format.col_gain = true;
  return format;
}

MatrixFormat dense_code_format(const Shape& shape, double bits) {
  MatrixFormat format = of_tiers(shape, {});
  format.codec = Codec::kDense;
  int best = 1;
  for (const int width : {2, 3, 4, 8}) {
    if (std::abs(width - bits) < std::abs(best - bits)) best = width;
  }
  format.dense = {.bits = best, .scale_rows = 1, .scale_cols = 0};
  return format;
}

/// As compression stores the change of an embedding or a head.
MatrixFormat vocabulary_format(const Shape& shape) {
  MatrixFormat format = of_tiers(shape, {});
  format.codec = Codec::kDense;
  format.dense = {.bits = 4, .scale_rows = 1, .scale_cols = kGroup};
  return format;
}

HostTensor random_blob(Random& random, const MatrixFormat& format) {
  const BlobLayout layout = layout_of(format);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  fill_bytes(random, blob.data(), layout.total_bytes);
  const auto array = [&](const ArrayFormat& f, const ArrayLayout& at) {
    fill_with(at.scales, DType::kF16, 1e-3F, blob);
    if (f.bits == 16) fill_with(at.codes, DType::kF16, 1e-3F, blob);
  };
  array(format.dense, layout.dense);
  for (size_t i = 0; i < format.tiers.size(); ++i) {
    array(format.tiers[i].v, layout.tiers[i].v);
    array(format.tiers[i].u, layout.tiers[i].u);
  }
  fill_with(layout.s, DType::kBf16, 1e-2F, blob);
  fill_with(layout.row_scale, DType::kF16, 1e-3F, blob);
  return HostTensor::of(DType::kU8, {layout.total_bytes}, std::move(blob));
}

}  // namespace

ModelConfig synthetic_config(const std::string& shape, int64_t n_layers, int64_t vocab_size) {
  ModelConfig config;
  config.model_type = "llama";
  config.architecture = "LlamaForCausalLM";
  config.max_positions = 4096;
  config.rms_norm_eps = 1e-5;
  if (shape == "1b") {
    config.hidden_size = 2048;
    config.intermediate_size = 8192;
    config.n_layers = 16;
    config.n_heads = 32;
    config.n_kv_heads = 8;
    config.head_dim = 64;
    config.vocab_size = 128256;
    config.tied_embeddings = true;
  } else if (shape == "7b") {
    config.hidden_size = 4096;
    config.intermediate_size = 11008;
    config.n_layers = 32;
    config.n_heads = config.n_kv_heads = 32;
    config.head_dim = 128;
    config.vocab_size = 32000;
  } else {
    fail(ErrorCode::kInvalidArgument, "no shape \"{}\", expected 1b or 7b", shape);
  }
  if (n_layers > 0) config.n_layers = std::min(n_layers, config.n_layers);
  if (vocab_size > 0) config.vocab_size = vocab_size;
  return config;
}

Checkpoint synthetic_checkpoint(const ModelConfig& config, uint64_t seed, int n_threads) {
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  std::vector<HostTensor> made(expected.size());
  ThreadPool threads(n_threads);
  threads.parallel_for(static_cast<int64_t>(made.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      Random random(seed * made.size() + i);
      const Shape& shape = expected[i].shape;
      std::vector<std::byte> bytes(static_cast<size_t>(2 * element_count(shape)));
      fill_bf16(random, bytes.data(), element_count(shape));
      made[i] = HostTensor::of(DType::kBf16, shape, std::move(bytes));
    }
  });
  std::map<std::string, HostTensor> tensors;
  for (size_t i = 0; i < made.size(); ++i) tensors[expected[i].name] = std::move(made[i]);
  return Checkpoint::of(std::move(tensors), "a random base");
}

MatrixFormat synthetic_format(const std::string& kind, double bits, const Shape& shape) {
  MatrixFormat format;
  if (kind == "come") {
    format = come_format(shape, bits);
  } else if (kind == "auto") {
    format = auto_format(shape, bits);
  } else if (kind == "vector") {
    format = vector_code_format(shape, bits);
  } else if (kind == "dense") {
    format = dense_code_format(shape, bits);
  } else if (kind == "lora") {
    format = of_tiers(shape, {{.rank = 16, .v = {16, 1, 0}, .u = {16, 1, 0}}});
  } else {
    fail(ErrorCode::kInvalidArgument,
         "no kind of delta \"{}\", expected come, auto, vector, dense or lora", kind);
  }
  validate(format, kind);
  return format;
}

void make_synthetic_delta(
    const ModelConfig& config, const SyntheticDelta& delta,
    const std::function<void(int slot, const MatrixFormat& format, HostTensor blob)>& take) {
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  Random random(delta.seed);
  using Kind = ExpectedTensor::Kind;
  for (size_t slot = 0; slot < expected.size(); ++slot) {
    const Shape& shape = expected[slot].shape;
    const Kind kind = expected[slot].kind;
    const bool of_vocabulary = kind == Kind::kEmbedding || kind == Kind::kHead;
    if (kind != Kind::kProjection && !(delta.vocabulary && of_vocabulary)) continue;
    const MatrixFormat format =
        of_vocabulary ? vocabulary_format(shape) : synthetic_format(delta.kind, delta.bits, shape);
    take(static_cast<int>(slot), format, random_blob(random, format));
  }
}

SyntheticVariant synthetic_variant(Backend& backend, Stream& stream, const ModelConfig& config,
                                   const SyntheticDelta& delta) {
  SyntheticVariant out{backend.create_variant(static_cast<int>(expected_tensors(config).size()))};
  make_synthetic_delta(config, delta,
                       [&](int slot, const MatrixFormat& format, const HostTensor& blob) {
                         out.bytes += static_cast<int64_t>(blob.bytes.size());
                         out.device->set(slot, format, blob, stream);
                       });
  return out;
}

}  // namespace deltacome
