// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/decode.h"

#include "backend/cuda/decode_kernels.h"
#include "quant/vector_codes.h"

namespace deltacome::cuda {
namespace {

/// Parts of a blob in device memory.
class Blob {
 public:
  Blob(const Tensor& tensor, const BlobLayout& layout)
      : data_(reinterpret_cast<const uint8_t*>(bytes_of(tensor))) {
    DELTACOME_CHECK(tensor.bytes() == layout.total_bytes);
  }
  const uint8_t* bytes(const Part& part) const {
    return part.bytes == 0 ? nullptr : data_ + part.offset;
  }
  const uint16_t* halves(const Part& part) const {
    return reinterpret_cast<const uint16_t*>(bytes(part));
  }
  StoredArray array(const ArrayFormat& format, const ArrayLayout& layout, int64_t rows,
                    int64_t cols) const {
    StoredArray out;
    out.codes = bytes(layout.codes);
    out.scales = halves(layout.scales);
    out.bits = format.bits;
    out.rows = rows;
    out.cols = cols;
    out.scale_rows = format.scale_rows;
    out.scale_cols = format.scale_cols;
    return out;
  }

 private:
  const uint8_t* data_;
};

}  // namespace

void DeltaDecoder::run(CudaStream& stream, const MatrixFormat& format, const Tensor& blob,
                       const Tensor& q, const Tensor& v) {
  const BlobLayout layout = layout_of(format);
  const Blob stored(blob, layout);
  const int64_t n_out = format.base_rows, n_in = format.n_in();
  if (format.codec == Codec::kLowRank) {
    const int64_t rank = format.rank();
    DELTACOME_CHECK(q.size() == n_out * rank && v.size() == rank * n_in);
    int64_t first = 0;
    for (size_t t = 0; t < format.tiers.size(); ++t) {
      const TierFormat& tier = format.tiers[t];
      StoredArray of_v = stored.array(tier.v, layout.tiers[t].v, tier.rank, n_in);
      of_v.gains = stored.bytes(layout.col_gain);
      of_v.out = f32(v) + first * n_in;
      of_v.row_step = n_in;
      DELTACOME_CUDA_CHECK(launch_decode_array(of_v, stream.get()));
      StoredArray of_u = stored.array(tier.u, layout.tiers[t].u, tier.rank, n_out);
      of_u.gains = stored.bytes(layout.row_gain);
      of_u.s = stored.halves(layout.s) + first;
      of_u.out = f32(q) + first;
      of_u.row_step = 1;
      of_u.col_step = rank;
      DELTACOME_CUDA_CHECK(launch_decode_array(of_u, stream.get()));
      first += tier.rank;
    }
    return;
  }
  DELTACOME_CHECK(q.size() == n_out * n_in && v.empty());
  if (format.codec == Codec::kVector) {
    const Tensor entries = book(stream, format.vector.dim);
    StoredVectors vectors;
    vectors.codes = stored.bytes(layout.vector_codes);
    vectors.scales = stored.halves(layout.row_scale);
    vectors.gains = stored.bytes(layout.col_gain);
    vectors.book = reinterpret_cast<const int8_t*>(bytes_of(entries));
    vectors.dim = format.vector.dim;
    vectors.rows = n_out;
    vectors.n_in = n_in;
    vectors.block = format.vector.block;
    vectors.seed = format.vector.seed;
    vectors.out = f32(q);
    DELTACOME_CUDA_CHECK(launch_decode_vectors(vectors, stream.get()));
    return;
  }
  DELTACOME_CHECK(format.codec == Codec::kDense);
  StoredArray dense = stored.array(format.dense, layout.dense, n_out, n_in);
  dense.out = f32(q);
  dense.row_step = n_in;
  DELTACOME_CUDA_CHECK(launch_decode_array(dense, stream.get()));
}

Tensor DeltaDecoder::book(CudaStream& stream, int dim) {
  Tensor& entries = books_[dim];
  if (entries.empty())
    entries = context_.to_device(stream, std::as_bytes(code_book(dim)), DType::kU8);
  return entries;
}

}  // namespace deltacome::cuda
