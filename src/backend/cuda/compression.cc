// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/compression.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/blas.h"
#include "backend/cuda/decode_kernels.h"
#include "backend/cuda/dense.h"
#include "backend/cuda/gptq.h"
#include "backend/cuda/linear.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kGramRows = 4096;  // rows summed in f32 before they are added in f64

AnyMatrix any_matrix(const Tensor& tensor) {
  if (tensor.dtype == DType::kF64) return {bytes_of(tensor), Element::kF32, true};
  return {bytes_of(tensor), element_of(tensor.dtype), false};
}

class CudaCompressionOps final : public CompressionOps {
 public:
  CudaCompressionOps(const CudaContext& context, StreamOrder& order)
      : context_(context), order_(order), blas_(context) {}

  void subtract(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) override {
    DELTACOME_CHECK(a.size() == out.size() && b.size() == out.size());
    DELTACOME_CUDA_CHECK(
        launch_subtract(any_matrix(a), any_matrix(b), f64(out), out.size(), on(stream).get()));
  }

  void gram(Stream& stream, const Tensor& x, const Tensor& c) override {
    const int64_t n = x.rows(), d = x.cols();
    DELTACOME_CHECK(c.rows() == d && c.cols() == d);
    CudaStream& to = on(stream);
    const Tensor piece = context_.allocate(DType::kF32, {d, d});
    for (int64_t first = 0; first < n; first += kGramRows) {
      blas_.gram_upper(to, f32(x) + first * d, std::min(kGramRows, n - first), d, f32(piece));
      DELTACOME_CUDA_CHECK(launch_add_gram(f32(piece), f64(c), d, to.get()));
    }
  }

  void matmul(Stream& stream, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
              const Tensor& c) override {
    blas_.gemm(on(stream), block_f64(a), transpose_a, block_f64(b), transpose_b, block_f64(c));
  }

  std::vector<double> eigh(Stream& stream, const Tensor& a) override {
    const int64_t n = a.rows();
    DELTACOME_CHECK(a.cols() == n);
    CudaStream& to = on(stream);
    const Tensor values = context_.allocate(DType::kF64, {n});
    blas_.eigh(to, f64(a), n, f64(values));
    DELTACOME_CUDA_CHECK(launch_reverse_rows(f64(a), n, n, to.get()));  // largest first
    std::vector<double> host = download(to, values);
    std::reverse(host.begin(), host.end());
    return host;
  }

  void scale(Stream& stream, const Tensor& a, std::span<const double> rows,
             std::span<const double> cols) override {
    DELTACOME_CHECK(rows.empty() || static_cast<int64_t>(rows.size()) == a.rows());
    DELTACOME_CHECK(cols.empty() || static_cast<int64_t>(cols.size()) == a.cols());
    CudaStream& to = on(stream);
    const Tensor by_row = context_.to_device(to, std::as_bytes(rows), DType::kF64);
    const Tensor by_col = context_.to_device(to, std::as_bytes(cols), DType::kF64);
    DELTACOME_CUDA_CHECK(launch_scale(f64(a), a.rows(), a.cols(),
                                      rows.empty() ? nullptr : f64(by_row),
                                      cols.empty() ? nullptr : f64(by_col), to.get()));
  }

  std::vector<double> row_dots(Stream& stream, const Tensor& a, const Tensor& b) override {
    DELTACOME_CHECK(a.rows() == b.rows() && a.cols() == b.cols());
    CudaStream& to = on(stream);
    const Tensor sums = context_.allocate(DType::kF64, {a.rows()});
    DELTACOME_CUDA_CHECK(launch_row_dots(f64(a), f64(b), a.rows(), a.cols(), f64(sums), to.get()));
    return download(to, sums);
  }

  void copy(Stream& stream, const Tensor& a, const Tensor& out) override {
    DELTACOME_CHECK(a.dtype == out.dtype && a.size() == out.size());
    DELTACOME_CUDA_CHECK(cudaMemcpyAsync(bytes_of(out), bytes_of(a), static_cast<size_t>(a.bytes()),
                                         cudaMemcpyDeviceToDevice, on(stream).get()));
  }

  void transpose(Stream& stream, const Tensor& a, const Tensor& out) override {
    DELTACOME_CHECK(a.rows() == out.cols() && a.cols() == out.rows());
    DELTACOME_CUDA_CHECK(launch_transpose(f64(a), a.rows(), a.cols(), f64(out), on(stream).get()));
  }

  void clear(Stream& stream, const Tensor& a) override {
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(bytes_of(a), 0, static_cast<size_t>(a.bytes()), on(stream).get()));
  }

  void multiply(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) override {
    DELTACOME_CHECK(a.size() == out.size() && b.size() == out.size());
    DELTACOME_CUDA_CHECK(launch_multiply(f64(a), f64(b), f64(out), out.size(), on(stream).get()));
  }

  void gather_rows(Stream& stream, const Tensor& a, std::span<const int64_t> rows,
                   const Tensor& out) override {
    DELTACOME_CHECK(static_cast<int64_t>(rows.size()) == out.rows() && a.cols() == out.cols());
    for (const int64_t row : rows) DELTACOME_CHECK(row >= 0 && row < a.rows());
    CudaStream& to = on(stream);
    const Tensor on_device = context_.to_device(to, std::as_bytes(rows), DType::kU8);
    DELTACOME_CUDA_CHECK(
        launch_gather_rows_f64(f64(a), reinterpret_cast<const int64_t*>(bytes_of(on_device)),
                               f64(out), out.rows(), out.cols(), to.get()));
  }

  std::vector<double> diagonal(Stream& stream, const Tensor& square) override {
    const int64_t n = square.rows();
    DELTACOME_CHECK(square.cols() == n);
    CudaStream& to = on(stream);
    const Tensor values = context_.allocate(DType::kF64, {n});
    DELTACOME_CUDA_CHECK(launch_diagonal(f64(square), n, f64(values), to.get()));
    return download(to, values);
  }

  void add_diagonal(Stream& stream, const Tensor& square, std::span<const double> values) override {
    const int64_t n = square.rows();
    DELTACOME_CHECK(square.cols() == n && static_cast<int64_t>(values.size()) == n);
    CudaStream& to = on(stream);
    const Tensor on_device = context_.to_device(to, std::as_bytes(values), DType::kF64);
    DELTACOME_CUDA_CHECK(launch_add_diagonal(f64(square), n, f64(on_device), to.get()));
  }

  std::unique_ptr<GptqFactor> gptq_factor(Stream& stream, const Tensor& h,
                                          std::span<const int64_t> order, double damp) override {
    return factor_hessian(blas_, context_, on(stream), h, order, damp);
  }

  Quantized gptq(Stream& stream, const Tensor& w, const GptqFactor* factor,
                 std::span<const CodeSection> sections) override {
    return quantize(blas_, context_, on(stream), w, static_cast<const CudaGptqFactor*>(factor),
                    sections);
  }

  VectorQuantized quantize_vectors(Stream& stream, const Tensor& w, const GptqFactor* factor,
                                   int dim) override {
    return cuda::quantize_vectors(blas_, context_, on(stream), w,
                                  static_cast<const CudaGptqFactor*>(factor), dim);
  }

  void solve_right(Stream& stream, const Tensor& a, const Tensor& b) override {
    DELTACOME_CHECK(a.rows() == a.cols() && b.cols() == a.rows());
    blas_.solve_right(on(stream), f64(a), a.rows(), f64(b), b.rows());
  }

  void rotate_rows(Stream& stream, const Tensor& a, std::span<const float> signs,
                   int64_t block) override {
    DELTACOME_CHECK(static_cast<int64_t>(signs.size()) == a.cols() && a.cols() % block == 0);
    CudaStream& to = on(stream);
    const Tensor on_device = context_.to_device(to, std::as_bytes(signs), DType::kF32);
    DELTACOME_CUDA_CHECK(
        launch_rotate_rows(f64(a), a.rows(), a.cols(), f32(on_device), block, to.get()));
  }

 private:
  CudaStream& on(Stream& stream) {
    context_.activate();
    order_.enter(cuda_stream(stream));
    return cuda_stream(stream);
  }
  static std::vector<double> download(CudaStream& stream, const Tensor& from) {
    std::vector<double> out(static_cast<size_t>(from.size()));
    stream.download(bytes_of(from), std::as_writable_bytes(std::span(out)));
    return out;
  }

  CudaContext context_;
  StreamOrder& order_;
  Blas blas_;
};

}  // namespace

std::unique_ptr<CompressionOps> create_compression_ops(const CudaContext& context,
                                                       StreamOrder& order) {
  return std::make_unique<CudaCompressionOps>(context, order);
}

}  // namespace deltacome::cuda
