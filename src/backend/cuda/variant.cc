// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/variant.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/delta_pack.h"
#include "core/check.h"
#include "quant/coded_products.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kLargestChunk = 4096;  // of delta_inputs.cu

/// An array of a blob at `blob`, in device memory.
PlainArray array_of(const ArrayFormat& format, int64_t rows, int64_t cols,
                    const ArrayLayout& layout, const std::byte* blob) {
  PlainArray a;
  a.rows = rows;
  a.cols = cols;
  a.low = reinterpret_cast<const uint8_t*>(blob + layout.codes.offset);
  if (format.bits == 16) {
    a.kind = PlainArray::Kind::kF16;
    return a;
  }
  a.bits = static_cast<uint8_t>(format.bits);
  if (format.bits == 3) a.high = a.low + rows * ((cols + 3) / 4);
  a.scales = reinterpret_cast<const uint16_t*>(blob + layout.scales.offset);
  a.scale_rows = std::max<int64_t>(format.scale_rows == 0 ? rows : format.scale_rows, 1);
  a.scale_cols = std::max<int64_t>(format.scale_cols == 0 ? cols : format.scale_cols, 1);
  return a;
}

PlainArray numbers_of(DType dtype, int64_t rows, int64_t cols, const std::byte* data) {
  PlainArray a;
  a.rows = rows;
  a.cols = cols;
  a.low = reinterpret_cast<const uint8_t*>(data);
  switch (dtype) {
    case DType::kF16:
      a.kind = PlainArray::Kind::kF16;
      return a;
    case DType::kBf16:
      a.kind = PlainArray::Kind::kBf16;
      return a;
    case DType::kF32:
      a.kind = PlainArray::Kind::kF32;
      return a;
    default:
      fail(ErrorCode::kUnsupported, "raw values of type {}, expected F32, F16 or BF16",
           dtype_name(dtype));
  }
}

/// Bits of a code in tiles.
int stored_bits(int bits) {
  return bits == 3 ? 4 : bits;
}

std::vector<float> floats_of(std::span<const std::byte> blob, const Part& part, DType dtype) {
  std::vector<float> out(static_cast<size_t>(part.bytes / dtype_bytes(dtype)));
  convert_to_float(blob.data() + part.offset, dtype, out);
  return out;
}

/// Where U of several tiers is, in blocks of 64 rows.
struct SharedBlocks {
  std::byte* codes = nullptr;
  int64_t stride = 0;  // tiles of a block, of all tiers; 0: not shared
};

/// Lays out one tensor in one piece of device memory: first without memory, for its size, then
/// with.
class TensorBuilder {
 public:
  TensorBuilder(CudaTensor& tensor, std::span<const std::byte> blob, const void* book)
      : t_(tensor), f_(tensor.format), layout_(layout_of(f_)), blob_(blob), book_(book) {}

  int64_t size() {
    build();
    return used_;
  }
  /// `staged`: the blob in device memory until the stream has passed.
  void build_at(std::byte* base, const std::byte* staged, CudaStream& stream) {
    base_ = base;
    staged_ = staged;
    stream_ = &stream;
    used_ = 0;
    t_.tiers.clear();
    build();
  }

 private:
  bool live() const { return stream_ != nullptr; }

  std::byte* place(int64_t bytes) {
    std::byte* at = base_ + used_;
    used_ += ceil_to(bytes, kAlign);
    return at;
  }
  const float* place_floats(const std::vector<float>& values) {
    if (values.empty()) return nullptr;
    std::byte* at = place(static_cast<int64_t>(sizeof(float) * values.size()));
    if (live()) stream_->upload(std::as_bytes(std::span(values)), at);
    return reinterpret_cast<const float*>(at);
  }
  /// A part of the blob as it is stored.
  const std::byte* keep(const Part& part) {
    std::byte* at = place(part.bytes);
    if (live() && part.bytes > 0) {
      DELTACOME_CUDA_CHECK(cudaMemcpyAsync(at, staged_ + part.offset,
                                           static_cast<size_t>(part.bytes),
                                           cudaMemcpyDeviceToDevice, stream_->get()));
    }
    return at;
  }
  PlainArray keep_array(const ArrayFormat& format, int64_t rows, int64_t cols,
                        const ArrayLayout& from) {
    // Codes and scales keep their distance: array_of() wants offsets from one base.
    const ArrayLayout at{{0, from.codes.bytes},
                         {ceil_to(from.codes.bytes, kAlign), from.scales.bytes}};
    const std::byte* codes = keep(from.codes);
    keep(from.scales);
    return array_of(format, rows, cols, at, codes);
  }

  void build() {
    const int64_t n_in = f_.n_in();
    t_.packed = can_pack(f_);
    t_.col_gain_values = decode_gains(blob_, layout_.col_gain);
    t_.col_gain = place_floats(t_.col_gain_values);
    const std::vector<float> row_gain = decode_gains(blob_, layout_.row_gain);
    if (!t_.packed) t_.row_gain = place_floats(row_gain);
    switch (f_.codec) {
      case Codec::kRaw:
        if (f_.shape.size() == 1) {
          t_.values = place_floats(floats_of(blob_, layout_.raw, f_.raw_dtype));
        } else {
          t_.raw = numbers_of(f_.raw_dtype, f_.n_out(), n_in, keep(layout_.raw));
        }
        return;
      case Codec::kDense:
        if (t_.packed) {
          t_.matrix = pack(f_.dense, f_.base_rows, n_in, layout_.dense, false, {});
        } else {
          t_.plain = keep_array(f_.dense, f_.base_rows, n_in, layout_.dense);
        }
        break;
      case Codec::kLowRank:
        build_tiers(row_gain);
        break;
      case Codec::kVector:
        build_vector();
        break;
    }
    t_.added = numbers_of(f_.raw_dtype, f_.added_rows(), n_in, keep(layout_.added));
  }

  void build_tiers(const std::vector<float>& row_gain) {
    const std::vector<float> s = floats_of(blob_, layout_.s, DType::kBf16);
    if (!t_.packed) t_.s = place_floats(s);
    const SharedBlocks shared = t_.packed ? share_blocks() : SharedBlocks{};
    int64_t at_tile = 0;  // of the shared blocks
    auto first = s.begin();
    for (size_t i = 0; i < f_.tiers.size(); ++i) {
      const TierFormat& tier = f_.tiers[i];
      const TierLayout& at = layout_.tiers[i];
      CudaTensor::Tier& to = t_.tiers.emplace_back();
      to.rank = tier.rank;
      if (t_.packed) {
        to.v = pack(tier.v, tier.rank, f_.n_in(), at.v, false, {first, first + tier.rank});
        const int64_t tiles = shared_tiles(tier);
        const SharedBlocks of_tier{shared.codes + at_tile * kTileBytes,
                                   tiles > 0 ? shared.stride : 0};
        at_tile += tiles;
        to.u = pack(tier.u, tier.rank, f_.base_rows, at.u, true, row_gain, of_tier);
      } else {
        to.plain_v = keep_array(tier.v, tier.rank, f_.n_in(), at.v);
        to.plain_u = keep_array(tier.u, tier.rank, f_.base_rows, at.u);
      }
      first += tier.rank;
    }
  }

  /// Tiles that U of a tier has in a shared block; 0: it has blocks of its own.
  static int64_t shared_tiles(const TierFormat& tier) {
    const int bits = stored_bits(tier.u.bits);
    if (bits == 2) return tiles_of(tier.rank);
    return bits > 2 && tier.rank <= kTileCols ? bits / 2 : 0;
  }
  SharedBlocks share_blocks() {
    SharedBlocks shared;
    for (const TierFormat& tier : f_.tiers) shared.stride += shared_tiles(tier);
    shared.codes = place(blocks_of(f_.base_rows, 2) * shared.stride * kTileBytes);
    return shared;
  }

  /// The array [rows, cols] of the blob, or its transpose, as tiles; rows times `factors`.
  PackedMatrix pack(const ArrayFormat& format, int64_t rows, int64_t cols, const ArrayLayout& at,
                    bool transposed, std::vector<float> factors, SharedBlocks shared = {}) {
    PackedMatrix m;
    m.rows = transposed ? cols : rows;
    m.cols = transposed ? rows : cols;
    m.bits = stored_bits(format.bits);
    m.center = code_center(format.bits);
    m.stride = tiles_of(m.cols);
    if (shared.stride > 0) {
      m.stride = shared.stride;
      m.together = m.bits / 2;
    } else {
      shared.codes = place(tile_bytes(m.rows, m.cols, m.bits));
    }
    m.codes = shared.codes;
    const PlainArray from = array_of(format, rows, cols, at, staged_);
    if (live()) {
      DELTACOME_CUDA_CHECK(launch_pack_tiles(from, transposed, m, shared.codes, stream_->get()));
    }
    const std::vector<float> scales = floats_of(blob_, at.scales, DType::kF16);
    if (has_one_scale(format)) {
      if (!scales.empty()) m.factor = scales[0];
    } else if (!transposed && format.scale_cols == 0) {
      if (factors.empty()) factors.assign(scales.size(), 1.0f);
      for (size_t i = 0; i < scales.size(); ++i) factors[i] *= scales[i];
    } else if (transposed && format.scale_rows == 1) {  // by component: gains of the input
      place_gains(m, format, scales);
    } else {
      const int64_t groups = groups_of(m.cols), chunks = scale_chunks(m.rows, m.bits);
      std::byte* to = place(chunks * groups * kScaleRows * 2);
      m.scales = to;
      if (live()) {
        DELTACOME_CUDA_CHECK(launch_pack_scales(from.scales, m.rows, groups,
                                                transposed ? 1 : groups, transposed ? m.rows : 1,
                                                chunks, to, stream_->get()));
      }
    }
    m.row_factor = place_floats(factors);
    return m;
  }

  void place_gains(PackedMatrix& m, const ArrayFormat& format, const std::vector<float>& scales) {
    m.gain_rows = format.scale_cols == 0 ? std::max<int64_t>(m.rows, 1) : format.scale_cols;
    const int64_t blocks = (m.rows + m.gain_rows - 1) / m.gain_rows;
    const int64_t padded = ceil_to(m.cols, kTileCols);
    std::vector<float> gains(static_cast<size_t>(blocks * padded));
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t k = 0; k < m.cols; ++k)
        gains[static_cast<size_t>(b * padded + k)] = scales[static_cast<size_t>(k * blocks + b)];
    }
    m.gains = place_floats(gains);
  }

  void build_vector() {
    PackedMatrix& m = t_.matrix;
    const int dim = f_.vector.dim;
    m.rows = f_.base_rows;
    m.cols = f_.n_in();
    m.factor = kBookStep;
    m.book = book_;
    const int64_t n_codes = (m.cols + dim - 1) / dim;
    std::byte* codes = place(vector_bytes(m.rows, n_codes));
    m.codes = codes;
    if (live()) {
      DELTACOME_CUDA_CHECK(launch_pack_vector(
          reinterpret_cast<const uint8_t*>(staged_ + layout_.vector_codes.offset), m.rows, n_codes,
          dim, codes, stream_->get()));
    }
    m.row_factor = place_floats(floats_of(blob_, layout_.row_scale, DType::kF16));
  }

  CudaTensor& t_;
  const MatrixFormat& f_;
  const BlobLayout layout_;
  std::span<const std::byte> blob_;
  const void* book_;
  std::byte* base_ = nullptr;
  const std::byte* staged_ = nullptr;
  CudaStream* stream_ = nullptr;
  int64_t used_ = 0;
};

}  // namespace

CudaVariant::CudaVariant(const CudaContext& context, int n_slots)
    : context_(context), tensors_(static_cast<size_t>(n_slots)) {}

const void* CudaVariant::book(int dim, CudaStream& stream) {
  std::unique_ptr<CudaStorage>& storage = books_[dim];
  if (storage == nullptr) {
    const size_t words = static_cast<size_t>(entry_words(dim));
    std::vector<int8_t> entries(kBookEntries * 4 * words);
    const std::span<const int8_t> book = code_book(dim);
    for (size_t e = 0; e < static_cast<size_t>(kBookEntries); ++e) {
      std::copy_n(book.begin() + static_cast<std::ptrdiff_t>(e) * dim, dim,
                  entries.begin() + static_cast<std::ptrdiff_t>(e * 4 * words));
    }
    const auto bytes = static_cast<int64_t>(entries.size());
    storage = std::make_unique<CudaStorage>(context_.memory, bytes, Purpose::kVariants);
    stream.upload(std::as_bytes(std::span(entries)), storage->data());
    resident_bytes_ += bytes;
  }
  return storage->data();
}

void CudaVariant::set(int slot, const MatrixFormat& format, const HostTensor& blob,
                      Stream& stream) {
  DELTACOME_CHECK(slot >= 0 && slot < n_slots());
  DELTACOME_CHECK(static_cast<int64_t>(blob.bytes.size()) == layout_of(format).total_bytes);
  if (format.codec == Codec::kVector && format.vector.block > kLargestChunk / 4) {
    fail(ErrorCode::kUnsupported, "a rotation in blocks of {}, expected at most {}",
         format.vector.block, kLargestChunk / 4);
  }
  context_.activate();
  CudaStream& on = cuda_stream(stream);
  auto tensor = std::make_unique<CudaTensor>();
  tensor->format = format;
  TensorBuilder builder(*tensor, blob.bytes,
                        format.codec == Codec::kVector ? book(format.vector.dim, on) : nullptr);
  tensor->bytes = builder.size();
  tensor->storage =
      std::make_unique<CudaStorage>(context_.memory, tensor->bytes, Purpose::kVariants);
  const CudaStorage staged(context_.memory, static_cast<int64_t>(blob.bytes.size()),
                           Purpose::kStaging);
  on.upload(blob.bytes, staged.data());
  builder.build_at(tensor->storage->data(), staged.data(), on);
  std::unique_ptr<CudaTensor>& place = tensors_[static_cast<size_t>(slot)];
  if (place != nullptr) resident_bytes_ -= place->bytes;
  resident_bytes_ += tensor->bytes;
  place = std::move(tensor);
}

const CudaTensor* CudaVariant::find(int slot) const noexcept {
  if (slot < 0 || slot >= n_slots()) return nullptr;
  return tensors_[static_cast<size_t>(slot)].get();
}

}  // namespace deltacome::cuda
