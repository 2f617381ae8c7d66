// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/gemm.h"

#include <algorithm>

namespace deltacome::cpu {
namespace {

constexpr int64_t kConvertTile = 32;  // weight rows converted at a time: 128 KiB
// Few rows of x wait for the weights: those are read in runs of whole rows, as many rows at a time
// as dot() takes.
constexpr int64_t kStreamedRows = 2;
constexpr int64_t kStreamTile = 8;

WeightType type_of(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return WeightType::kBf16;
    case DType::kF16:
      return WeightType::kF16;
    default:
      return WeightType::kF32;
  }
}

/// Inputs [begin, begin + n) of weight rows [first, first + count) as f32 [count, n].
void convert_block(const Kernels& kernels, const WeightView& w, int64_t first, int64_t count,
                   int64_t begin, int64_t n, float* out) {
  for (int64_t o = 0; o < count; ++o, out += n) {
    const std::byte* in = w.data + ((first + o) * w.n_in + begin) * dtype_bytes(w.dtype);
    if (w.dtype == DType::kBf16 || w.dtype == DType::kF16) {
      kernels.convert(type_of(w.dtype), in, n, out);
    } else {
      convert_to_float(in, w.dtype, {out, static_cast<size_t>(n)});
    }
  }
}

}  // namespace

int64_t multiply_scratch() noexcept {
  return kConvertTile * kInputBlock;
}

void multiply(const Kernels& kernels, const WeightView& w, int64_t first, int64_t count,
              const RowSet& rows, int64_t y_first, float* scratch) {
  if (rows.n == 0 || count <= 0) return;
  const bool direct =
      w.dtype == DType::kF32 || (w.dtype != DType::kF64 && rows.n < kernels.convert_from_rows);
  const bool streams = direct && rows.n <= kStreamedRows;
  const int64_t tile = streams ? kStreamTile : direct ? count : kConvertTile;
  if (count > tile) {
    for (int64_t o = 0; o < count; o += tile)
      multiply(kernels, w, first + o, std::min(tile, count - o), rows, y_first + o, scratch);
    return;
  }
  for (int64_t begin = 0; begin < w.n_in; begin += kInputBlock) {
    const int64_t n = std::min(kInputBlock, w.n_in - begin);
    DotArgs args{.x = rows.x,
                 .x_offset = begin,
                 .n_rows = rows.n,
                 .n_out = count,
                 .k = n,
                 .y = rows.y,
                 .y_offset = y_first,
                 .add = begin > 0};
    if (direct) {
      args.w = w.data + (first * w.n_in + begin) * dtype_bytes(w.dtype);
      args.type = type_of(w.dtype);
      args.w_stride = w.n_in;
    } else {
      convert_block(kernels, w, first, count, begin, n, scratch);
      args.w = scratch;
      args.w_stride = n;
    }
    kernels.dot(args);
  }
}

}  // namespace deltacome::cpu
