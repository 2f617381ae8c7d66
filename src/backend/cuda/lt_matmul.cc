// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/lt_matmul.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS advises for Hopper
constexpr size_t kMostProducts = 4096;                  // prepared calls that are kept

void check_blas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorCode::kDevice, "CUDA: {} failed: {}", call, cublasLtGetStatusString(status));
}

cudaDataType_t data_type(Element type) {
  return type == Element::kF32 ? CUDA_R_32F : type == Element::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

/// 256, 16 or 4: bytes that all pointers are aligned to.
uint32_t alignment_of(const Gemm& gemm) {
  uintptr_t bits = 0;
  for (const void* p : {gemm.w, gemm.x, static_cast<const void*>(gemm.y)})
    bits |= reinterpret_cast<uintptr_t>(p);
  return bits % 256 == 0 ? 256 : bits % 16 == 0 ? 16 : 4;
}

}  // namespace

/// Row-major y = x w^T is what cuBLASLt, which is column-major, calls y^T = (w^T)^T x^T.
struct LtMatmul::Product {
  cublasLtMatmulDesc_t multiply = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool possible = false;

  Product(cublasLtHandle_t handle, const Key& key) {
    const auto& [type, result, accumulates, n_rows, n_out, n_in, w_stride, x_stride, y_stride,
                 alignment] = key;
    const auto u = [](int64_t v) { return static_cast<uint64_t>(v); };
    check_blas(cublasLtMatmulDescCreate(&multiply, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    const cublasOperation_t transpose = CUBLAS_OP_T;
    check_blas(cublasLtMatmulDescSetAttribute(multiply, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                              sizeof transpose),
               "cublasLtMatmulDescSetAttribute");
    const auto layout = [](cublasLtMatrixLayout_t& to, Element of, uint64_t rows, uint64_t cols,
                           int64_t stride) {
      check_blas(cublasLtMatrixLayoutCreate(&to, data_type(of), rows, cols, stride),
                 "cublasLtMatrixLayoutCreate");
    };
    layout(w, type, u(n_in), u(n_out), w_stride);
    layout(x, type, u(n_in), u(n_rows), x_stride);
    layout(y, result, u(n_out), u(n_rows), y_stride);
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto workspace = static_cast<size_t>(kWorkspaceBytes);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    const uint32_t bytes = alignment;
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &bytes, sizeof bytes);
    }
    cublasLtMatmulHeuristicResult_t found{};
    int n_found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, multiply, w, x, y, y,
                                                                 preference, 1, &found, &n_found);
    cublasLtMatmulPreferenceDestroy(preference);
    possible = status == CUBLAS_STATUS_SUCCESS && n_found > 0;
    algorithm = found.algo;
  }
  ~Product() {
    cublasLtMatmulDescDestroy(multiply);
    for (const cublasLtMatrixLayout_t layout : {w, x, y}) cublasLtMatrixLayoutDestroy(layout);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
};

LtMatmul::LtMatmul(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {
  cublasLtHandle_t handle = nullptr;
  check_blas(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
}

const LtMatmul::Product& LtMatmul::product(const Key& key) {
  const auto found = products_.find(key);
  if (found != products_.end()) return *found->second;
  if (products_.size() >= kMostProducts) products_.clear();
  return *products_.emplace(key, std::make_shared<Product>(handle_.get(), key)).first->second;
}

bool LtMatmul::multiply(CudaStream& stream, const Gemm& gemm) {
  const Product& product =
      this->product({gemm.type, gemm.result, gemm.accumulates, gemm.n_rows, gemm.n_out, gemm.n_in,
                     gemm.w_stride, gemm.x_stride, gemm.y_stride, alignment_of(gemm)});
  if (!product.possible) return false;
  if (workspace_ == nullptr)
    workspace_ = std::make_unique<CudaStorage>(memory_, kWorkspaceBytes, Purpose::kWorkspace);
  const float one = 1, before = gemm.accumulates ? 1 : 0;
  check_blas(
      cublasLtMatmul(handle_.get(), product.multiply, &one, gemm.w, product.w, gemm.x, product.x,
                     &before, gemm.y, product.y, gemm.y, product.y, &product.algorithm,
                     workspace_->data(), static_cast<size_t>(kWorkspaceBytes), stream.get()),
      "cublasLtMatmul");
  return true;
}

}  // namespace deltacome::cuda
