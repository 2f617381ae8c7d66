// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/blas.h"

#include <limits>
#include <vector>

namespace deltacome::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS advises for Hopper

void check_blas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorCode::kDevice, "CUDA: {} failed: {}", call, cublasGetStatusString(status));
}
void check_solver(cusolverStatus_t status, const char* call) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  fail(ErrorCode::kDevice, "CUDA: {} failed with cuSOLVER status {}", call,
       static_cast<int>(status));
}

int as_int(int64_t n) {
  DELTACOME_CHECK(n >= 0 && n <= std::numeric_limits<int>::max());
  return static_cast<int>(n);
}
cublasOperation_t operation(bool transpose) {
  return transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/// m, n, k of c [m, n] = op(a) [m, k] op(b) [k, n].
struct Extents {
  int m, n, k;
};
template <class T>
Extents extents(const Block<T>& a, bool transpose_a, const Block<T>& b, bool transpose_b,
                const Block<T>& c) {
  const int64_t k = transpose_a ? a.rows : a.cols;
  DELTACOME_CHECK((transpose_a ? a.cols : a.rows) == c.rows);
  DELTACOME_CHECK((transpose_b ? b.rows : b.cols) == c.cols);
  DELTACOME_CHECK((transpose_b ? b.cols : b.rows) == k);
  return {as_int(c.rows), as_int(c.cols), as_int(k)};
}

}  // namespace

Blas::Blas(const CudaContext& context) : context_(context) {
  cublasHandle_t blas = nullptr;
  check_blas(cublasCreate(&blas), "cublasCreate");
  blas_.reset(blas);
  cusolverDnHandle_t solver = nullptr;
  check_solver(cusolverDnCreate(&solver), "cusolverDnCreate");
  solver_.reset(solver);
  cusolverDnParams_t params = nullptr;
  check_solver(cusolverDnCreateParams(&params), "cusolverDnCreateParams");
  params_.reset(params);
  workspace_ = context_.allocate(DType::kU8, {kWorkspaceBytes});
}

cublasHandle_t Blas::blas(CudaStream& stream) {
  check_blas(cublasSetStream(blas_.get(), stream.get()), "cublasSetStream");
  // A new stream drops the workspace.
  check_blas(cublasSetWorkspace(blas_.get(), bytes_of(workspace_), kWorkspaceBytes),
             "cublasSetWorkspace");
  return blas_.get();
}

cusolverDnHandle_t Blas::solver(CudaStream& stream) {
  check_solver(cusolverDnSetStream(solver_.get(), stream.get()), "cusolverDnSetStream");
  return solver_.get();
}

// Row-major c = op(a) op(b) is what cuBLAS, which is column-major, calls c^T = op(b)^T op(a)^T.

void Blas::gemm(CudaStream& stream, const Block<double>& a, bool transpose_a,
                const Block<double>& b, bool transpose_b, const Block<double>& c, double alpha,
                double beta) {
  const auto [m, n, k] = extents(a, transpose_a, b, transpose_b, c);
  if (m == 0 || n == 0) return;
  check_blas(cublasDgemm(blas(stream), operation(transpose_b), operation(transpose_a), n, m, k,
                         &alpha, b.data, as_int(b.stride), a.data, as_int(a.stride), &beta, c.data,
                         as_int(c.stride)),
             "cublasDgemm");
}

void Blas::gemm(CudaStream& stream, const Block<float>& a, bool transpose_a, const Block<float>& b,
                bool transpose_b, const Block<float>& c, float beta, Precision precision) {
  const auto [m, n, k] = extents(a, transpose_a, b, transpose_b, c);
  if (m == 0 || n == 0) return;
  const float one = 1;
  check_blas(cublasGemmEx(
                 blas(stream), operation(transpose_b), operation(transpose_a), n, m, k, &one,
                 b.data, CUDA_R_32F, as_int(b.stride), a.data, CUDA_R_32F, as_int(a.stride), &beta,
                 c.data, CUDA_R_32F, as_int(c.stride),
                 precision == Precision::kTf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                 CUBLAS_GEMM_DEFAULT),
             "cublasGemmEx");
}

void Blas::gemm(CudaStream& stream, int64_t count, const Batch& a, bool transpose_a, const Batch& b,
                bool transpose_b, const Batch& c, float beta) {
  const auto [m, n, k] = extents(a.matrix, transpose_a, b.matrix, transpose_b, c.matrix);
  if (m == 0 || n == 0 || count == 0) return;
  const float one = 1;
  check_blas(
      cublasGemmStridedBatchedEx(blas(stream), operation(transpose_b), operation(transpose_a), n, m,
                                 k, &one, b.matrix.data, CUDA_R_32F, as_int(b.matrix.stride),
                                 b.step, a.matrix.data, CUDA_R_32F, as_int(a.matrix.stride), a.step,
                                 &beta, c.matrix.data, CUDA_R_32F, as_int(c.matrix.stride), c.step,
                                 as_int(count), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "cublasGemmStridedBatchedEx");
}

void Blas::gram_upper(CudaStream& stream, const float* x, int64_t n, int64_t d, float* c) {
  const float one = 1, zero = 0;
  check_blas(cublasSsyrk(blas(stream), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, as_int(d), as_int(n),
                         &one, x, as_int(d), &zero, c, as_int(d)),
             "cublasSsyrk");
}

template <class Call>
void Blas::solve(CudaStream& stream, size_t device_bytes, size_t host_bytes, const char* trouble,
                 const Call& call) {
  const Tensor device = context_.allocate(DType::kU8, {static_cast<int64_t>(device_bytes)});
  const Tensor info = context_.allocate(DType::kI32, {1});
  std::vector<std::byte> host(host_bytes);
  call(bytes_of(device), device_bytes, host.data(), host_bytes, i32(info));
  int32_t value = 0;
  stream.download(i32(info), std::as_writable_bytes(std::span(&value, 1)));
  if (value != 0) fail(ErrorCode::kInternal, "{} (cuSOLVER info {})", trouble, value);
}

void Blas::eigh(CudaStream& stream, double* a, int64_t n, double* values) {
  const cusolverDnHandle_t handle = solver(stream);
  const auto mode = CUSOLVER_EIG_MODE_VECTOR;
  const auto side = CUBLAS_FILL_MODE_UPPER;
  size_t on_device = 0, on_host = 0;
  check_solver(cusolverDnXsyevd_bufferSize(handle, params_.get(), mode, side, n, CUDA_R_64F, a, n,
                                           CUDA_R_64F, values, CUDA_R_64F, &on_device, &on_host),
               "cusolverDnXsyevd_bufferSize");
  solve(stream, on_device, on_host, "eigenvectors of a symmetric matrix: no convergence",
        [&](void* work, size_t work_bytes, void* host, size_t host_bytes, int* info) {
          check_solver(
              cusolverDnXsyevd(handle, params_.get(), mode, side, n, CUDA_R_64F, a, n, CUDA_R_64F,
                               values, CUDA_R_64F, work, work_bytes, host, host_bytes, info),
              "cusolverDnXsyevd");
        });
}

// The row-major lower triangle is the column-major upper one: a = U^T U with U = G^T.
void Blas::cholesky(CudaStream& stream, double* a, int64_t n) {
  const cusolverDnHandle_t handle = solver(stream);
  const auto side = CUBLAS_FILL_MODE_UPPER;
  size_t on_device = 0, on_host = 0;
  check_solver(cusolverDnXpotrf_bufferSize(handle, params_.get(), side, n, CUDA_R_64F, a, n,
                                           CUDA_R_64F, &on_device, &on_host),
               "cusolverDnXpotrf_bufferSize");
  solve(stream, on_device, on_host, "Cholesky: the matrix is not positive definite",
        [&](void* work, size_t work_bytes, void* host, size_t host_bytes, int* info) {
          check_solver(cusolverDnXpotrf(handle, params_.get(), side, n, CUDA_R_64F, a, n,
                                        CUDA_R_64F, work, work_bytes, host, host_bytes, info),
                       "cusolverDnXpotrf");
        });
}

void Blas::invert_lower(CudaStream& stream, double* a, int64_t n) {
  const cusolverDnHandle_t handle = solver(stream);
  const auto side = CUBLAS_FILL_MODE_UPPER;
  size_t on_device = 0, on_host = 0;
  check_solver(cusolverDnXtrtri_bufferSize(handle, side, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, a, n,
                                           &on_device, &on_host),
               "cusolverDnXtrtri_bufferSize");
  solve(stream, on_device, on_host, "inverse of a triangle: a zero on its diagonal",
        [&](void* work, size_t work_bytes, void* host, size_t host_bytes, int* info) {
          check_solver(cusolverDnXtrtri(handle, side, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, a, n,
                                        work, work_bytes, host, host_bytes, info),
                       "cusolverDnXtrtri");
        });
}

void Blas::solve_right(CudaStream& stream, double* a, int64_t n, double* b, int64_t m) {
  cholesky(stream, a, n);
  // x a = b is a x^T = b^T, and the row-major b is the column-major b^T.
  const Tensor info = context_.allocate(DType::kI32, {1});
  check_solver(cusolverDnXpotrs(solver(stream), params_.get(), CUBLAS_FILL_MODE_UPPER, n, m,
                                CUDA_R_64F, a, n, CUDA_R_64F, b, n, i32(info)),
               "cusolverDnXpotrs");
}

}  // namespace deltacome::cuda
