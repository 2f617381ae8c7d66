// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/coded_matrix.h"

#include <cmath>
#include <limits>

#include "backend/cuda/delta_pack.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/quantize.h"
#include "core/check.h"
#include "quant/codes.h"
#include "quant/kept_codes.h"

namespace deltacome::cuda {

const CodedMatrix* coded(const Tensor& weight) noexcept {
  const auto* storage = dynamic_cast<const CodedStorage*>(weight.storage.get());
  return storage == nullptr ? nullptr : &storage->matrix();
}

/// A matrix that is being made: its memory, and on the way a code a byte and scales in their own
/// order.
class CodedMaker::Making {
 public:
  Making(const CudaContext& context, int64_t rows, int64_t cols, int bits, bool by_row)
      : context_(context), by_row_(by_row) {
    m_.rows = rows;
    m_.cols = cols;
    m_.bits = bits;
    m_.center = code_center(bits);
    m_.stride = tiles_of(cols);
  }

  void set_center(float center) { m_.center = center; }
  /// zeros: [rows, n_sums] or empty.
  void allocate(int64_t n_zeros = 0) {
    const int64_t code_bytes = ceil_to(tile_bytes(m_.rows, m_.cols, m_.bits), 256);
    const int64_t scale_bytes =
        ceil_to(by_row_ ? m_.rows * 4 : chunks() * groups_of(m_.cols) * kScaleRows * 2, 256);
    memory_ = std::make_unique<CudaStorage>(context_.memory, code_bytes + scale_bytes + 4 * n_zeros,
                                            Purpose::kWeights);
    m_.codes = memory_->data();
    scales_ = memory_->data() + code_bytes;
    zeros_ = scales_ + scale_bytes;
    codes_ = passing(m_.rows * m_.cols);
    group_scales_ = passing(m_.rows * groups_of(m_.cols) * 2);
  }
  std::unique_ptr<CudaStorage> passing(int64_t bytes) const {
    return std::make_unique<CudaStorage>(context_.memory, bytes, Purpose::kWeights);
  }

  uint8_t* codes() const { return reinterpret_cast<uint8_t*>(codes_->data()); }
  float* row_scales() const { return reinterpret_cast<float*>(scales_); }
  uint16_t* group_scales() const { return reinterpret_cast<uint16_t*>(group_scales_->data()); }
  float* zeros() const { return reinterpret_cast<float*>(zeros_); }

  /// Codes and scales, which are there, in the layout of the kernels.
  void pack(CudaStream& stream) {
    PlainArray from;
    from.low = codes();
    from.rows = m_.rows;
    from.cols = m_.cols;
    from.bits = 8;
    DELTACOME_CUDA_CHECK(launch_pack_tiles(from, false, m_, memory_->data(), stream.get()));
    if (by_row_) {
      m_.row_factor = row_scales();
      return;
    }
    const int64_t groups = groups_of(m_.cols);
    m_.scales = scales_;
    DELTACOME_CUDA_CHECK(launch_pack_scales(group_scales(), m_.rows, groups, groups, 1, chunks(),
                                            scales_, stream.get()));
  }
  /// What was made, once the stream has ended.
  Tensor finish(CudaStream& stream, DType dtype, CodedMatrix made = {}) {
    stream.synchronize();  // other streams do not wait for this one
    made.packed = m_;
    return {std::make_shared<CodedStorage>(std::move(memory_), std::move(made)),
            0,
            dtype,
            {m_.rows, m_.cols}};
  }

 private:
  int64_t chunks() const { return scale_chunks(m_.rows, m_.bits); }

  const CudaContext& context_;
  const bool by_row_;
  PackedMatrix m_;
  std::unique_ptr<CudaStorage> memory_, codes_, group_scales_;
  std::byte *scales_ = nullptr, *zeros_ = nullptr;
};

Tensor CodedMaker::from_weights(CudaStream& stream, const HostTensor& host, WeightFormat format) {
  DELTACOME_CHECK(host.shape.size() == 2);
  const int64_t rows = host.shape[0], cols = host.cols();
  const int bits = format == WeightFormat::kInt8 ? 8 : 4;
  Making making(context_, rows, cols, bits, format == WeightFormat::kInt8);
  making.allocate();
  const auto weights = making.passing(static_cast<int64_t>(host.bytes.size())),
             bad = making.passing(4);
  stream.upload(host.bytes, weights->data());
  int bad_row = std::numeric_limits<int>::max();
  stream.upload(std::as_bytes(std::span(&bad_row, 1)), bad->data());
  Quantize args;
  args.weights = {weights->data(), element_of(host.dtype), rows, cols};
  args.bits = bits;
  args.codes = making.codes();
  args.row_scales = making.row_scales();
  args.group_scales = making.group_scales();
  args.bad_row = reinterpret_cast<int*>(bad->data());
  DELTACOME_CUDA_CHECK(launch_quantize(args, stream.get()));
  making.pack(stream);
  stream.download(bad->data(), std::as_writable_bytes(std::span(&bad_row, 1)));
  if (bad_row != std::numeric_limits<int>::max()) {
    fail(ErrorCode::kInvalidArgument,
         "weights {} of the base: row {} has a value that is not finite, expected finite values "
         "for codes of {} bits",
         to_string(host.shape), bad_row, bits);
  }
  return making.finish(stream, host.dtype);
}

QuantizedImport CodedMaker::from_codes(CudaStream& stream, const QuantizedMatrix& matrix) {
  return keeps_codes(matrix) ? keep(stream, matrix) : nearest(stream, matrix);
}

/// Codes as they are. A zero that all groups share is the layout's center.
QuantizedImport CodedMaker::keep(CudaStream& stream, const QuantizedMatrix& matrix) {
  float center = 0;
  if (!has_one_zero(matrix, center)) center = code_center(matrix.bits);
  const KeptCodes kept = kept_codes(matrix, center);
  Making making(context_, matrix.n_out, matrix.n_in, matrix.bits, kept.by_row);
  making.set_center(center);
  making.allocate(static_cast<int64_t>(kept.zeros.size()));
  stream.upload(std::as_bytes(std::span(matrix.codes)), making.codes());
  if (kept.by_row) {
    stream.upload(std::as_bytes(std::span(kept.row_scales)), making.row_scales());
  } else {
    stream.upload(std::as_bytes(std::span(kept.group_scales)), making.group_scales());
  }
  making.pack(stream);
  CodedMatrix made;
  made.n_sums = kept.n_sums;
  if (!kept.zeros.empty()) {
    stream.upload(std::as_bytes(std::span(kept.zeros)), making.zeros());
    made.zeros = making.zeros();
  }
  made.order = order_of(stream, matrix.order);
  return {.tensor = making.finish(stream, matrix.dtype, std::move(made)),
          .bytes = kept.bytes_of(matrix),
          .relative_error = kept.relative_error};
}

QuantizedImport CodedMaker::nearest(CudaStream& stream, const QuantizedMatrix& matrix) {
  const int64_t rows = matrix.n_out, cols = matrix.n_in;
  Making making(context_, rows, cols, 8, false);
  making.allocate();
  std::vector<std::unique_ptr<CudaStorage>> uploads;
  const auto upload = [&](const auto& values) -> const std::byte* {
    if (values.empty()) return nullptr;
    const auto bytes = std::as_bytes(std::span(values));
    uploads.push_back(making.passing(static_cast<int64_t>(bytes.size())));
    stream.upload(bytes, uploads.back()->data());
    return uploads.back()->data();
  };
  std::vector<int32_t> code_of_column(matrix.order.size());
  for (size_t i = 0; i < matrix.order.size(); ++i)
    code_of_column[static_cast<size_t>(matrix.order[i])] = static_cast<int32_t>(i);
  const auto loss = making.passing(rows * 2 * 8);
  Requantize args;
  args.from = reinterpret_cast<const uint8_t*>(upload(matrix.codes));
  args.levels = reinterpret_cast<const float*>(upload(matrix.levels));
  args.scales = reinterpret_cast<const float*>(upload(matrix.scales));
  args.zeros = reinterpret_cast<const float*>(upload(matrix.zeros));
  args.code_of_column = reinterpret_cast<const int32_t*>(upload(code_of_column));
  args.rows = rows;
  args.cols = cols;
  args.group = matrix.group;
  args.codes = making.codes();
  args.group_scales = making.group_scales();
  args.loss = reinterpret_cast<double*>(loss->data());
  DELTACOME_CUDA_CHECK(launch_requantize(args, stream.get()));
  making.pack(stream);
  std::vector<double> losses(static_cast<size_t>(2 * rows));
  stream.download(loss->data(), std::as_writable_bytes(std::span(losses)));
  double error = 0, energy = 0;
  for (size_t r = 0; r < losses.size(); r += 2) {
    error += losses[r];
    energy += losses[r + 1];
  }
  return {.tensor = making.finish(stream, matrix.dtype),
          .bytes = rows * (cols + 2 * groups_of(cols)),
          .relative_error = energy > 0 ? std::sqrt(error / energy) : 0};
}

std::shared_ptr<const CudaStorage> CodedMaker::order_of(CudaStream& stream,
                                                        const std::vector<int32_t>& order) {
  if (order.empty()) return nullptr;
  std::erase_if(orders_, [](const auto& known) { return known.second.expired(); });
  std::weak_ptr<const CudaStorage>& known = orders_[order];
  if (auto held = known.lock()) return held;
  const auto bytes = std::as_bytes(std::span(order));
  auto made = std::make_shared<CudaStorage>(context_.memory, static_cast<int64_t>(bytes.size()),
                                            Purpose::kWeights);
  stream.upload(bytes, made->data());
  known = made;
  return made;
}

}  // namespace deltacome::cuda
