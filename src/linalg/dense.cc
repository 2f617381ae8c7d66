// SPDX-License-Identifier: Apache-2.0
#include "linalg/dense.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>

#include "core/check.h"

extern "C" void openblas_set_num_threads(int);
extern "C" int openblas_get_num_threads(void);

namespace deltacome::linalg {
namespace {

int to_blas(int64_t n) {
  DELTACOME_CHECK(n >= 0 && n <= INT32_MAX);
  return static_cast<int>(n);
}

}  // namespace

void set_threads(int n_threads) {
  openblas_set_num_threads(n_threads);
}

void gemm(View a, bool transpose_a, View b, bool transpose_b, View c, double alpha, double beta) {
  const int64_t k = transpose_a ? a.rows : a.cols;
  DELTACOME_CHECK((transpose_a ? a.cols : a.rows) == c.rows);
  DELTACOME_CHECK((transpose_b ? b.rows : b.cols) == c.cols);
  DELTACOME_CHECK((transpose_b ? b.cols : b.rows) == k);
  if (c.rows == 0 || c.cols == 0) return;
  cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, to_blas(c.rows), to_blas(c.cols), to_blas(k),
              alpha, a.data, to_blas(a.cols), b.data, to_blas(b.cols), beta, c.data,
              to_blas(c.cols));
}

void gemm_block(int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
                const double* b, int64_t ldb, double* c, int64_t ldc) {
  if (m == 0 || n == 0 || k == 0) return;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, to_blas(m), to_blas(n), to_blas(k), alpha,
              a, to_blas(lda), b, to_blas(ldb), 1.0, c, to_blas(ldc));
}

void gemm_f32(const BlockF32& a, bool transpose_a, const BlockF32& b, bool transpose_b,
              const BlockF32& c, float alpha, float beta) {
  const int64_t k = transpose_a ? a.rows : a.cols;
  DELTACOME_CHECK((transpose_a ? a.cols : a.rows) == c.rows);
  DELTACOME_CHECK((transpose_b ? b.rows : b.cols) == c.cols);
  DELTACOME_CHECK((transpose_b ? b.cols : b.rows) == k);
  if (c.rows == 0 || c.cols == 0) return;
  // BLAS refuses strides of 0, which blocks without elements may have.
  const auto stride = [](const BlockF32& m) { return to_blas(std::max<int64_t>(m.stride, 1)); };
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, to_blas(c.rows), to_blas(c.cols), to_blas(k),
              alpha, a.data, stride(a), b.data, stride(b), beta, c.data, stride(c));
}

SerialBlas::SerialBlas() : n_threads_(openblas_get_num_threads()) {
  openblas_set_num_threads(1);
}

SerialBlas::~SerialBlas() {
  openblas_set_num_threads(n_threads_);
}

void gram_upper(const float* x, int64_t n, int64_t d, float* c) {
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, to_blas(d), to_blas(n), 1.0f, x, to_blas(d),
              0.0f, c, to_blas(d));
}

std::vector<double> eigh(View a) {
  DELTACOME_CHECK(a.rows == a.cols);
  std::vector<double> values(static_cast<size_t>(a.rows));
  if (a.rows == 0) return values;
  // Column-major LAPACK sees the same symmetric matrix; its eigenvector columns are our rows.
  const lapack_int status = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', to_blas(a.rows), a.data,
                                           to_blas(a.rows), values.data());
  if (status != 0) {
    fail(ErrorCode::kInternal, "eigensolver: dsyevd of a {0} x {0} matrix ended with status {1}",
         a.rows, status);
  }
  return values;
}

void inverse_cholesky(View a) {
  const int n = to_blas(a.rows);
  const auto check = [&](lapack_int status, const char* step) {
    if (status != 0) {
      fail(ErrorCode::kInternal,
           "{} of a {} x {} Hessian ended with status {}: not positive definite", step, n, n,
           status);
    }
  };
  if (n == 0) return;
  // In column-major terms 'L' is our upper triangle.
  check(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', n, a.data, n), "Cholesky factorization");
  check(LAPACKE_dpotri(LAPACK_COL_MAJOR, 'L', n, a.data, n), "inversion");
  check(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', n, a.data, n),
        "Cholesky factorization of the inverse");
  for (int64_t i = 1; i < a.rows; ++i) std::fill(a.row(i), a.row(i) + i, 0.0);
}

void solve_right(View a, View b) {
  DELTACOME_CHECK(a.rows == a.cols && b.cols == a.rows);
  if (a.rows == 0 || b.rows == 0) return;
  // Column-major LAPACK sees b as b^T: the right-hand sides of a x^T = b^T.
  const lapack_int status = LAPACKE_dposv(LAPACK_COL_MAJOR, 'L', to_blas(a.rows), to_blas(b.rows),
                                          a.data, to_blas(a.rows), b.data, to_blas(b.cols));
  if (status != 0)
    fail(ErrorCode::kInternal, "a system of size {} is not positive definite (dposv: {})", a.rows,
         status);
}

}  // namespace deltacome::linalg
