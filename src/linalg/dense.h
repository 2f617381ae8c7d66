// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace deltacome::linalg {

/// Threads that BLAS and LAPACK use from now on, in the whole process.
void set_threads(int n_threads);

/// A row-major matrix of doubles in host memory that somebody else owns.
struct View {
  double* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  double* row(int64_t i) const noexcept { return data + i * cols; }
  double& operator()(int64_t i, int64_t j) const noexcept { return data[i * cols + j]; }
};

/// c = alpha op(a) op(b) + beta c.
void gemm(View a, bool transpose_a, View b, bool transpose_b, View c, double alpha = 1,
          double beta = 0);
/// The same with row strides, for blocks of larger matrices: c [m, n] += alpha a [m, k] b [k, n].
void gemm_block(int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
                const double* b, int64_t ldb, double* c, int64_t ldc);
/// A block of a row-major matrix of floats that somebody else owns: row i starts at data + i *
/// stride. One head of [n, heads * head_dim], for instance.
struct BlockF32 {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};
/// c = alpha op(a) op(b) + beta c.
void gemm_f32(const BlockF32& a, bool transpose_a, const BlockF32& b, bool transpose_b,
              const BlockF32& c, float alpha = 1, float beta = 0);
/// While it lives, BLAS runs on the calling thread alone, so that each thread of a pool can call
/// it. One at a time in the process.
class SerialBlas {
 public:
  SerialBlas();
  ~SerialBlas();
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;

 private:
  int n_threads_;  // before
};
/// c [d, d] (f32, upper triangle only) = x^T x; x [n, d].
void gram_upper(const float* x, int64_t n, int64_t d, float* c);
/// Eigenvectors replace the symmetric a, one a row, ascending; returns the eigenvalues. Throws
/// kInternal if LAPACK's dsyevd does not converge.
std::vector<double> eigh(View a);
/// Replaces the symmetric positive definite a by the upper triangular R with R^T R = a^-1 (zeros
/// below the diagonal). Throws kInternal if a is not positive definite.
void inverse_cholesky(View a);

/// Solves x a = b for the symmetric positive definite a [n, n]; x replaces b [m, n], and a is
/// overwritten. Throws kInternal if a is not positive definite.
void solve_right(View a, View b);

}  // namespace deltacome::linalg
