// SPDX-License-Identifier: Apache-2.0
#include "projection_bench.h"

#include <cublas_v2.h>

#include <cstdio>

#include "backend/cuda/skinny.h"
#include "read_roof.h"

namespace deltacome::bench {
namespace {

using cuda::bytes_of;
using cuda::f32;

constexpr int64_t kHidden = 4096, kInner = 11008;
constexpr int kLayers = 8;  // 3.2 GB of weights

/// Matrices [n_out, n_in], which share an input.
struct Call {
  const char* name;
  int64_t n_in;
  std::vector<int64_t> n_out;
};
const std::vector<Call> kCalls = {{"q,k,v", kHidden, {kHidden, kHidden, kHidden}},
                                  {"o", kHidden, {kHidden}},
                                  {"gate,up", kHidden, {kInner, kInner}},
                                  {"down", kInner, {kHidden}}};

class Projections {
 public:
  explicit Projections(BenchDevice& device) : device_(device) {
    for (const Call& call : kCalls) {
      std::vector<HostTensor> host;
      for (const int64_t n_out : call.n_out)
        host.push_back(BenchDevice::random_matrix(device.dtype, n_out, call.n_in));
      bytes_.push_back(0);
      weights_.emplace_back(kLayers);
      for (const HostTensor& w : host) bytes_.back() += static_cast<double>(w.bytes.size());
      for (std::vector<Tensor>& layer : weights_.back()) {
        for (const HostTensor& w : host)
          layer.push_back(device.backend->import_projection(w, WeightFormat::kStored));
      }
    }
    cublasCreate(&blas_);
    cublasSetStream(blas_, device.raw());
    blas_workspace_ = device.backend->allocate(DType::kU8, {int64_t{32} << 20});
    cublasSetWorkspace(blas_, bytes_of(blas_workspace_), size_t{32} << 20);
  }
  ~Projections() { cublasDestroy(blas_); }
  Projections(const Projections&) = delete;
  Projections& operator=(const Projections&) = delete;

  void run() {
    std::printf("\nprojections of a layer, us of each call alone and of all: us, TB/s\n%17s", "");
    for (const Call& call : kCalls) std::printf("%9s", call.name);
    std::printf("%9s\n%-17s", "layer", "bytes over roof");
    const double roof = read_roof();  // bytes a us
    double all = 0;
    for (const double bytes : bytes_) {
      std::printf("%9.1f", bytes / roof);
      all += bytes;
    }
    std::printf("%9.1f %5.2f\n", all / roof, roof * 1e-6);
    for (const int64_t n : {1, 2, 4, 8, 16, 32, 64, 256, 2048}) {
      make_activations(n);
      report(n, "cuBLAS", [&](size_t call, size_t layer) { cublas(call, layer); });
      report(n, "backend", [&](size_t call, size_t layer) { backend(call, layer); });
      if (n <= cuda::kSkinnyRows)
        report(n, "own", [&](size_t call, size_t layer) { own(call, layer); });
    }
  }

 private:
  double read_roof() {
    const int64_t bytes = int64_t{2} << 30;
    const Tensor data = device_.backend->allocate(DType::kU8, {bytes});
    const Tensor out = device_.backend->allocate(DType::kI32, {1});
    return static_cast<double>(bytes) / device_.time_events([&] {
      DELTACOME_CUDA_CHECK(launch_read(bytes_of(data), static_cast<size_t>(bytes), device_.n_sms,
                                       cuda::i32(out), device_.raw()));
    });
  }

  template <class Product>
  void report(int64_t n, const char* name, const Product& product) {
    std::printf("%5ld %-11s", static_cast<long>(n), name);
    const auto layers = [&](size_t first, size_t last) {
      return device_.time([&] {
        for (size_t layer = 0; layer < kLayers; ++layer) {
          for (size_t call = first; call < last; ++call) product(call, layer);
        }
      }) / kLayers;
    };
    double all = 0;
    for (size_t call = 0; call < kCalls.size(); ++call) {
      std::printf("%9.1f", layers(call, call + 1));
      all += bytes_[call];
    }
    const double us = layers(0, kCalls.size());
    std::printf("%9.1f %5.2f\n", us, all / us * 1e-6);
  }

  void make_activations(int64_t n) {
    x_.clear();
    y_.clear();
    for (const Call& call : kCalls) {
      x_.push_back(device_.put({n, call.n_in}));
      y_.emplace_back();
      for (const int64_t n_out : call.n_out)
        y_.back().push_back(device_.backend->allocate(DType::kF32, {n, n_out}));
    }
    half_ = device_.backend->allocate(device_.dtype, {n, kInner});
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(bytes_of(half_), 0x3c, static_cast<size_t>(half_.bytes()), device_.raw()));
    plan_ = device_.base_plan(n);
  }

  void backend(size_t call, size_t layer) {
    std::vector<LinearTarget> targets;
    for (size_t m = 0; m < y_[call].size(); ++m) {
      targets.emplace_back();
      targets.back().slot = static_cast<int>(m);
      targets.back().weight = weights_[call][layer][m];
      targets.back().y = y_[call][m];
    }
    device_.backend->linear(*device_.stream, *plan_, x_[call], targets);
  }
  void own(size_t call, size_t layer) {
    cuda::Skinny args;
    for (size_t m = 0; m < y_[call].size(); ++m) {
      const Tensor& w = weights_[call][layer][m];
      args.targets[args.n_targets++] = {bytes_of(w), f32(y_[call][m]), w.rows(), w.rows()};
    }
    args.type = cuda::element_of(device_.dtype);
    args.x = f32(x_[call]);
    args.n_rows = static_cast<int>(x_[call].rows());
    args.n_in = x_[call].cols();
    args.overlaps = device_.overlaps;
    DELTACOME_CUDA_CHECK(cuda::launch_skinny(args, device_.n_sms, device_.raw()));
  }
  void cublas(size_t call, size_t layer) {
    const cudaDataType_t type = device_.dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_16F;
    const float one = 1, zero = 0;
    for (size_t m = 0; m < y_[call].size(); ++m) {
      const Tensor& w = weights_[call][layer][m];
      const auto n_out = static_cast<int>(w.rows()), n_in = static_cast<int>(w.cols());
      const cublasStatus_t status = cublasGemmEx(
          blas_, CUBLAS_OP_T, CUBLAS_OP_N, n_out, static_cast<int>(half_.rows()), n_in, &one,
          bytes_of(w), type, n_in, bytes_of(half_), type, n_in, &zero, f32(y_[call][m]), CUDA_R_32F,
          n_out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
      if (status != CUBLAS_STATUS_SUCCESS)
        fail(ErrorCode::kDevice, "cublasGemmEx: status {}", static_cast<int>(status));
    }
  }

  BenchDevice& device_;
  std::vector<std::vector<std::vector<Tensor>>> weights_;  // [call][layer][matrix]
  std::vector<double> bytes_;                              // [call]
  std::vector<Tensor> x_;                                  // [call]
  Tensor half_;                                            // in the type of the weights
  std::vector<std::vector<Tensor>> y_;                     // [call][matrix]
  std::unique_ptr<VariantPlan> plan_;
  cublasHandle_t blas_ = nullptr;
  Tensor blas_workspace_;
};

}  // namespace

void bench_projections(BenchDevice& device) {
  Projections(device).run();
}

}  // namespace deltacome::bench
