// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublas_v2.h>
#include <cusolverDn.h>

#include <memory>

#include "backend/cuda/context.h"

namespace deltacome::cuda {

/// A row-major matrix, or block of one, in device memory: row i starts at data + i * stride.
template <class T>
struct Block {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
};

inline double* f64(const Tensor& tensor) {
  DELTACOME_CHECK(tensor.dtype == DType::kF64);
  return reinterpret_cast<double*>(bytes_of(tensor));
}
inline Block<float> block_f32(const Tensor& t) {
  return {f32(t), t.rows(), t.cols(), t.cols()};
}
inline Block<double> block_f64(const Tensor& t) {
  return {f64(t), t.rows(), t.cols(), t.cols()};
}

/// How f32 products round their operands: not at all, or to 10 bits of mantissa, which is what
/// tensor cores multiply fast.
enum class Precision : uint8_t { kF32, kTf32 };

/// cuBLAS and cuSOLVER for row-major matrices, stream-ordered; a result is the same in every run on
/// one kind of device. Throws kDevice naming the call. One thread at a time.
class Blas {
 public:
  explicit Blas(const CudaContext& context);

  /// c = alpha op(a) op(b) + beta c; op transposes where asked.
  void gemm(CudaStream& stream, const Block<double>& a, bool transpose_a, const Block<double>& b,
            bool transpose_b, const Block<double>& c, double alpha = 1, double beta = 0);
  void gemm(CudaStream& stream, const Block<float>& a, bool transpose_a, const Block<float>& b,
            bool transpose_b, const Block<float>& c, float beta, Precision precision);
  /// The same for `n` matrices each, `step` elements from one to the next.
  struct Batch {
    Block<float> matrix;
    int64_t step = 0;
  };
  void gemm(CudaStream& stream, int64_t n, const Batch& a, bool transpose_a, const Batch& b,
            bool transpose_b, const Batch& c, float beta);
  /// c [d, d], upper triangle only, = x^T x in f32; x [n, d].
  void gram_upper(CudaStream& stream, const float* x, int64_t n, int64_t d, float* c);

  /// Eigenvectors replace the symmetric a [n, n], one a row, ascending; values [n]. Throws
  /// kInternal if it does not converge.
  void eigh(CudaStream& stream, double* a, int64_t n, double* values);
  /// The lower triangle of a [n, n] becomes G with G G^T = a, the rest is left alone. Throws
  /// kInternal if a is not positive definite.
  void cholesky(CudaStream& stream, double* a, int64_t n);
  /// The lower triangle G of a becomes G^-1.
  void invert_lower(CudaStream& stream, double* a, int64_t n);
  /// b [m, n] becomes b a^-1 for the symmetric positive definite a [n, n], overwritten. Throws as
  /// cholesky().
  void solve_right(CudaStream& stream, double* a, int64_t n, double* b, int64_t m);

 private:
  cublasHandle_t blas(CudaStream& stream);
  cusolverDnHandle_t solver(CudaStream& stream);
  /// Runs call(device workspace, bytes, host workspace, bytes, info) and checks info, the index of
  /// what went wrong.
  template <class Call>
  void solve(CudaStream& stream, size_t device_bytes, size_t host_bytes, const char* trouble,
             const Call& call);

  struct DestroyBlas {
    void operator()(cublasHandle_t handle) const noexcept { cublasDestroy(handle); }
  };
  struct DestroySolver {
    void operator()(cusolverDnHandle_t handle) const noexcept { cusolverDnDestroy(handle); }
  };
  struct DestroyParams {
    void operator()(cusolverDnParams_t params) const noexcept { cusolverDnDestroyParams(params); }
  };
  CudaContext context_;
  std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, DestroyBlas> blas_;
  std::unique_ptr<std::remove_pointer_t<cusolverDnHandle_t>, DestroySolver> solver_;
  std::unique_ptr<std::remove_pointer_t<cusolverDnParams_t>, DestroyParams> params_;
  Tensor workspace_;
};

}  // namespace deltacome::cuda
