// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/gptq.h"

#include <algorithm>

#include "backend/cuda/dense.h"
#include "backend/cuda/gptq_kernels.h"
#include "backend/cuda/vector_quantizer.h"
#include "quant/vector_codes.h"

namespace deltacome::cuda {
namespace {

template <class T>
std::vector<T> download(CudaStream& stream, const Tensor& from) {
  std::vector<T> out(static_cast<size_t>(from.bytes()) / sizeof(T));
  if (!out.empty()) stream.download(bytes_of(from), std::as_writable_bytes(std::span(out)));
  return out;
}

template <class T>
T* pointer(const Tensor& tensor) {
  return tensor.empty() ? nullptr : reinterpret_cast<T*>(bytes_of(tensor));
}

int64_t blocks(int64_t extent, int64_t per_block) {
  return per_block == 0 ? 1 : (extent + per_block - 1) / per_block;
}

/// What a section's codes and scales are written to.
struct SectionMemory {
  Tensor codes, scales, halves;
};

}  // namespace

std::unique_ptr<GptqFactor> factor_hessian(Blas& blas, const CudaContext& context,
                                           CudaStream& stream, const Tensor& h,
                                           std::span<const int64_t> order, double damp) {
  const int64_t n = h.rows();
  DELTACOME_CHECK(h.cols() == n && static_cast<int64_t>(order.size()) == n);
  auto factor = std::make_unique<CudaGptqFactor>();
  factor->n = n;
  factor->order = context.to_device(stream, std::as_bytes(order), DType::kU8);
  factor->pivots = context.allocate(DType::kF64, {n});
  factor->feedback = context.allocate(DType::kF64, {n, n});
  DELTACOME_CUDA_CHECK(launch_diagonal(f64(h), n, f64(factor->pivots), stream.get()));
  std::vector<double> diagonal = download<double>(stream, factor->pivots);
  double trace = 0;
  for (const double v : diagonal) trace += v;
  const double add = trace > 0 ? damp * trace / static_cast<double>(n) : 1.0;
  for (double& v : diagonal) v += add;
  factor->diagonal = context.to_device(stream, std::as_bytes(std::span(diagonal)), DType::kF64);

  // H reversed = G G^T makes H = U U^T with an upper U, and R = U^-1 is G^-1 reversed.
  double* r = f64(factor->feedback);
  DELTACOME_CUDA_CHECK(
      launch_permute_reversed(f64(h), pointer<int64_t>(factor->order), add, r, n, stream.get()));
  blas.cholesky(stream, r, n);
  blas.invert_lower(stream, r, n);
  DELTACOME_CUDA_CHECK(launch_finish_factor(r, f64(factor->pivots), n, stream.get()));
  return factor;
}

Quantized quantize(Blas& blas, const CudaContext& context, CudaStream& stream, const Tensor& w,
                   const CudaGptqFactor* factor, std::span<const CodeSection> sections) {
  const int64_t rows = w.rows(), n = w.cols();
  DELTACOME_CHECK(sections.size() <= static_cast<size_t>(kMostSections));
  DELTACOME_CHECK(factor == nullptr || factor->n == n);
  Quantized out;
  out.values = context.allocate(DType::kF64, {rows, n});
  GptqColumns columns;
  std::vector<SectionMemory> memory(sections.size());
  std::vector<uint8_t> section_of(static_cast<size_t>(n), uint8_t{255});
  for (size_t i = 0; i < sections.size(); ++i) {
    const ArrayFormat& f = sections[i].format;
    const int64_t count = sections[i].count;
    GptqSection& s = columns.sections[i];
    s.first = sections[i].first;
    s.count = count;
    s.bits = f.bits;
    s.scale_rows = f.scale_rows == 0 ? std::max<int64_t>(rows, 1) : f.scale_rows;
    s.scale_cols = f.scale_cols == 0 ? std::max<int64_t>(count, 1) : f.scale_cols;
    s.per_row = blocks(count, f.scale_cols);
    std::fill_n(section_of.begin() + s.first, count, static_cast<uint8_t>(i));
    if (f.bits == 16) {
      memory[i].halves = context.allocate(DType::kF16, {rows, count});
      s.halves = pointer<uint16_t>(memory[i].halves);
      continue;
    }
    const int64_t n_scales = scale_count(f, rows, count);
    memory[i].codes = context.allocate(DType::kU8, {rows, count});
    memory[i].scales = context.allocate(DType::kF16, {n_scales});
    s.codes = pointer<uint8_t>(memory[i].codes);
    s.scales = pointer<uint16_t>(memory[i].scales);
    DELTACOME_CUDA_CHECK(launch_static_scales(
        f64(w), rows, n, factor ? f64(factor->diagonal) : nullptr, s, n_scales, stream.get()));
  }
  for (const uint8_t s : section_of) DELTACOME_CHECK(s != 255);
  const Tensor section =
      context.to_device(stream, std::as_bytes(std::span(section_of)), DType::kU8);
  columns.section = pointer<uint8_t>(section);
  columns.rows = rows;
  columns.n = n;
  if (factor == nullptr) {
    columns.work = f64(out.values);
    DELTACOME_CUDA_CHECK(cudaMemcpyAsync(columns.work, f64(w), static_cast<size_t>(w.bytes()),
                                         cudaMemcpyDeviceToDevice, stream.get()));
    DELTACOME_CUDA_CHECK(launch_gptq(columns, 0, stream.get()));
  } else {
    const Tensor work = context.allocate(DType::kF64, {rows, n});
    const Tensor errors = context.allocate(DType::kF64, {rows, kGptqColumns});
    columns.order = pointer<int64_t>(factor->order);
    columns.work = f64(work);
    columns.errors = f64(errors);
    columns.feedback = f64(factor->feedback);
    DELTACOME_CUDA_CHECK(
        launch_take_order(f64(w), columns.order, columns.work, rows, n, stream.get()));
    for (int64_t first = 0; first < n; first += kGptqColumns) {
      DELTACOME_CUDA_CHECK(launch_gptq(columns, first, stream.get()));
      const int64_t end = first + kGptqColumns;
      if (end >= n) break;
      blas.gemm(stream, {columns.errors, rows, kGptqColumns, kGptqColumns}, false,
                {f64(factor->feedback) + first * n + end, kGptqColumns, n - end, n}, false,
                {columns.work + end, rows, n - end, n}, -1, 1);
    }
    DELTACOME_CUDA_CHECK(
        launch_undo_order(columns.work, columns.order, f64(out.values), rows, n, stream.get()));
  }
  for (const SectionMemory& m : memory) {
    Quantized::Section& host = out.sections.emplace_back();
    if (!m.codes.empty()) host.codes = download<uint8_t>(stream, m.codes);
    if (!m.scales.empty()) host.scales = download<uint16_t>(stream, m.scales);
    if (!m.halves.empty()) host.halves = download<uint16_t>(stream, m.halves);
  }
  return out;
}

VectorQuantized quantize_vectors(Blas& blas, const CudaContext& context, CudaStream& stream,
                                 const Tensor& w, const CudaGptqFactor* factor, int dim) {
  static_assert(kMostDim == kBookDimensions.back() && kVectorEntries == kBookEntries);
  const int64_t rows = w.rows(), n = w.cols();
  DELTACOME_CHECK(factor == nullptr || factor->n == n);
  const int64_t n_groups = (n + dim - 1) / dim;
  const int64_t panel_columns = dim * ((64 + dim - 1) / dim);
  DELTACOME_CHECK(dim <= kMostDim && panel_columns <= kMostPanel);
  const Tensor book = context.to_device(stream, std::as_bytes(code_book(dim)), DType::kU8);
  const Tensor inverse = context.allocate(DType::kF64, {n_groups, kMostDim * kMostDim});
  const Tensor metric = context.allocate(DType::kF32, {n_groups, kMostDim * kMostDim});
  const Tensor half_norms = context.allocate(DType::kF32, {n_groups, kVectorEntries});
  const Tensor scales = context.allocate(DType::kF16, {rows});
  const Tensor codes = context.allocate(DType::kU8, {rows, n_groups});
  const Tensor errors = context.allocate(DType::kF64, {rows, kMostPanel});
  const Tensor feedback = context.allocate(DType::kF64, {factor ? panel_columns : 0, n});
  VectorQuantized out;
  out.values = context.allocate(DType::kF64, {rows, n});
  DELTACOME_CUDA_CHECK(cudaMemcpyAsync(f64(out.values), f64(w), static_cast<size_t>(w.bytes()),
                                       cudaMemcpyDeviceToDevice, stream.get()));
  VectorPanel panel;
  panel.groups = {.dim = dim,
                  .n = n,
                  .book = pointer<int8_t>(book),
                  .feedback = factor ? f64(factor->feedback) : nullptr,
                  .pivots = factor ? f64(factor->pivots) : nullptr,
                  .inverse = f64(inverse),
                  .metric = f32(metric),
                  .half_norms = f32(half_norms)};
  panel.rows = rows;
  panel.feedback = factor ? f64(feedback) : nullptr;
  panel.scales = pointer<uint16_t>(scales);
  panel.work = f64(out.values);
  panel.errors = f64(errors);
  panel.codes = pointer<uint8_t>(codes);
  DELTACOME_CUDA_CHECK(launch_row_scales(f64(w), rows, n, pointer<uint16_t>(scales), stream.get()));
  DELTACOME_CUDA_CHECK(launch_make_groups(panel.groups, stream.get()));
  for (int64_t first = 0; first < n; first += panel_columns) {
    panel.first = first;
    panel.count = std::min(panel_columns, n - first);
    const int64_t behind = first + panel.count;
    if (factor) {
      DELTACOME_CUDA_CHECK(
          launch_group_feedback(panel.groups, first, panel.count, f64(feedback), stream.get()));
    }
    DELTACOME_CUDA_CHECK(launch_code_panel(panel, stream.get()));
    if (!factor || behind == n) continue;
    blas.gemm(stream, {panel.errors, rows, panel.count, kMostPanel}, false,
              {f64(feedback) + behind, panel.count, n - behind, n}, false,
              {panel.work + behind, rows, n - behind, n}, -1, 1);
  }
  out.codes = download<uint8_t>(stream, codes);
  out.scales = download<uint16_t>(stream, scales);
  return out;
}

}  // namespace deltacome::cuda
