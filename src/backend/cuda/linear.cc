// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/linear.h"

#include "backend/cuda/rows.h"
#include "backend/cuda/skinny.h"

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

bool aligned(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Element::kF32;
    case DType::kF16:
      return Element::kF16;
    case DType::kBf16:
      return Element::kBf16;
    default:
      fail(ErrorCode::kUnsupported, "weights of type {} on the GPU, expected F32, F16 or BF16",
           dtype_name(dtype));
  }
}

Matrix matrix_of(const Tensor& weight) {
  return {bytes_of(weight), element_of(weight.dtype), weight.rows(), weight.cols()};
}

/// Row-major y = x W^T is what cuBLASLt, which is column-major, calls y^T = (W^T)^T x^T.
struct BaseLinear::Product {
  cublasLtMatmulDesc_t multiply = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool possible = false;

  Product(cublasLtHandle_t handle, const Key& key) {
    const auto& [type, n_rows, n_out, n_in, stride, alignment] = key;
    const auto u = [](int64_t v) { return static_cast<uint64_t>(v); };
    check_blas(cublasLtMatmulDescCreate(&multiply, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    const cublasOperation_t transpose = CUBLAS_OP_T;
    check_blas(cublasLtMatmulDescSetAttribute(multiply, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                              sizeof transpose),
               "cublasLtMatmulDescSetAttribute");
    check_blas(cublasLtMatrixLayoutCreate(&w, data_type(type), u(n_in), u(n_out), n_in),
               "cublasLtMatrixLayoutCreate");
    check_blas(cublasLtMatrixLayoutCreate(&x, data_type(type), u(n_in), u(n_rows), n_in),
               "cublasLtMatrixLayoutCreate");
    check_blas(cublasLtMatrixLayoutCreate(&y, CUDA_R_32F, u(n_out), u(n_rows), stride),
               "cublasLtMatrixLayoutCreate");
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto workspace = static_cast<size_t>(kWorkspaceBytes);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment);
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

BaseLinear::BaseLinear(const CudaContext& context) : context_(context) {
  cublasLtHandle_t handle = nullptr;
  check_blas(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
}

const BaseLinear::Product& BaseLinear::product(const Key& key) {
  const auto found = products_.find(key);
  if (found != products_.end()) return *found->second;
  if (products_.size() >= kMostProducts) products_.clear();
  return *products_.emplace(key, std::make_shared<Product>(handle_.get(), key)).first->second;
}

void BaseLinear::multiply(CudaStream& stream, const Tensor& x, const Tensor& rounded,
                          const LinearTarget& target) {
  const Matrix w = matrix_of(target.weight);
  const auto plain = [&] {
    DELTACOME_CUDA_CHECK(
        launch_plain_product(w, f32(x), x.rows(), f32(target.y), target.y.cols(), stream.get()));
  };
  // The layouts that cuBLASLt can use start rows at 16 bytes; few rows of f32 are as well off here.
  const bool usable = w.cols % 8 == 0 && aligned(w.data, 16) && aligned(bytes_of(x), 16);
  if (!usable || (w.type == Element::kF32 && x.rows() <= kSkinnyRows)) return plain();
  const void* in = w.type == Element::kF32 ? bytes_of(x) : bytes_of(rounded);
  const auto all = [&](uintptr_t bytes) {
    return aligned(w.data, bytes) && aligned(in, bytes) && aligned(f32(target.y), bytes);
  };
  const uint32_t alignment = all(256) ? 256 : all(16) ? 16 : 4;
  const Product& product =
      this->product({w.type, x.rows(), w.rows, w.cols, target.y.cols(), alignment});
  if (!product.possible) return plain();
  if (workspace_.empty()) workspace_ = context_.allocate(DType::kU8, {kWorkspaceBytes});
  const float one = 1, zero = 0;
  check_blas(
      cublasLtMatmul(handle_.get(), product.multiply, &one, w.data, product.w, in, product.x, &zero,
                     f32(target.y), product.y, f32(target.y), product.y, &product.algorithm,
                     bytes_of(workspace_), static_cast<size_t>(kWorkspaceBytes), stream.get()),
      "cublasLtMatmul");
}

void BaseLinear::run(CudaStream& stream, const Tensor& x, std::span<const LinearTarget> targets) {
  const int64_t n_rows = x.rows(), n_in = x.cols();
  for (const LinearTarget& target : targets) {
    DELTACOME_CHECK(target.weight.cols() == n_in && target.y.rows() == n_rows);
    DELTACOME_CHECK(target.y.cols() >= target.weight.rows());
  }
  const auto is_skinny = [&](const LinearTarget& target) {
    const Matrix w = matrix_of(target.weight);
    return n_rows <= kSkinnyRows && w.type != Element::kF32 && n_in % 8 == 0 &&
           aligned(w.data, 16) && aligned(bytes_of(x), 16);
  };
  Tensor rounded;  // x, for cuBLASLt
  Element rounded_to = Element::kF32;
  Skinny skinny;
  skinny.x = f32(x);
  skinny.n_rows = static_cast<int>(n_rows);
  skinny.n_in = n_in;
  skinny.overlaps = context_.overlaps;
  const auto launch = [&] {
    if (skinny.n_targets > 0)
      DELTACOME_CUDA_CHECK(launch_skinny(skinny, context_.n_sms, stream.get()));
    skinny.n_targets = 0;
  };
  for (const LinearTarget& target : targets) {
    const Matrix w = matrix_of(target.weight);
    if (is_skinny(target)) {
      if (skinny.n_targets == kSkinnyTargets || (skinny.n_targets > 0 && skinny.type != w.type))
        launch();
      skinny.type = w.type;
      skinny.targets[skinny.n_targets++] = {w.data, f32(target.y), w.rows, target.y.cols()};
      continue;
    }
    if (w.type != Element::kF32 && n_rows > kSkinnyRows && rounded_to != w.type) {
      rounded = context_.allocate(target.weight.dtype, x.shape);
      rounded_to = w.type;
      DELTACOME_CUDA_CHECK(launch_round(f32(x), w.type, bytes_of(rounded), x.size(), stream.get()));
    }
    multiply(stream, x, rounded, target);
  }
  launch();
}

void add_biases(CudaStream& stream, const CudaVariantPlan& plan,
                std::span<const LinearTarget> targets) {
  for (const LinearTarget& target : targets) {
    if (target.bias.empty()) continue;
    DELTACOME_CHECK(target.bias.size() == target.weight.rows());
    DELTACOME_CUDA_CHECK(launch_bias({.y = f32(target.y),
                                      .n_rows = target.y.rows(),
                                      .n = target.bias.size(),
                                      .stride = target.y.cols(),
                                      .bias = bytes_of(target.bias),
                                      .type = element_of(target.bias.dtype),
                                      .own = plan.raw_rows(target.bias_slot)},
                                     stream.get()));
  }
}

}  // namespace deltacome::cuda
