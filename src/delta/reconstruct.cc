// SPDX-License-Identifier: Apache-2.0
#include "delta/reconstruct.h"

#include "backend/compression_ops.h"
#include "core/check.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

/// The delta [base_rows, n_in] in float64.
std::vector<double> expand(Backend& backend, Stream& stream, const MatrixFormat& format,
                           const HostTensor& blob) {
  const DecodedDelta delta = decode_delta(format, blob.bytes);
  if (format.codec != Codec::kLowRank) return {delta.v.begin(), delta.v.end()};
  CompressionOps& ops = backend.compression();
  const auto upload = [&](const std::vector<float>& values, Shape shape) {
    const std::vector<double> wide(values.begin(), values.end());
    const Tensor tensor = backend.allocate(DType::kF64, std::move(shape));
    backend.upload(stream, std::as_bytes(std::span(wide)), tensor);
    stream.synchronize();
    return tensor;
  };
  const int64_t rank = format.rank();
  const Tensor u = upload(delta.u, {format.base_rows, rank});
  const Tensor v = upload(delta.v, {rank, format.n_in()});
  const std::vector<double> s(delta.s.begin(), delta.s.end());
  ops.scale(stream, u, {}, s);
  const Tensor product = backend.allocate(DType::kF64, {format.base_rows, format.n_in()});
  ops.matmul(stream, u, false, v, false, product);
  std::vector<double> out(static_cast<size_t>(product.size()));
  backend.download(stream, product, std::as_writable_bytes(std::span(out)));
  return out;
}

}  // namespace

std::vector<std::byte> reconstruct(Backend& backend, Stream& stream, const HostTensor& base,
                                   const MatrixFormat& format, const HostTensor& blob,
                                   DType dtype) {
  const BlobLayout layout = layout_of(format);
  const auto convert = [&](const Part& part) {  // stored values -> the target's dtype
    std::vector<float> values(static_cast<size_t>(part.bytes / dtype_bytes(format.raw_dtype)));
    convert_to_float(blob.bytes.data() + part.offset, format.raw_dtype, values);
    std::vector<std::byte> out(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
    convert_from_float(values, dtype, out.data());
    return out;
  };
  if (format.codec == Codec::kRaw) return convert(layout.raw);
  const std::vector<double> delta = expand(backend, stream, format, blob);
  const int64_t cols = format.n_in(), row_bytes = cols * dtype_bytes(dtype);
  std::vector<std::byte> out(static_cast<size_t>(format.base_rows * row_bytes));
  for (int64_t r = 0; r < format.base_rows; ++r) {
    std::vector<float> row = base.to_float(r, 1);
    for (int64_t c = 0; c < cols; ++c) {
      row[static_cast<size_t>(c)] = static_cast<float>(row[static_cast<size_t>(c)] +
                                                       delta[static_cast<size_t>(r * cols + c)]);
    }
    convert_from_float(row, dtype, out.data() + r * row_bytes);
  }
  const std::vector<std::byte> added = convert(layout.added);
  out.insert(out.end(), added.begin(), added.end());
  return out;
}

}  // namespace deltacome
