// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/rows.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_memory.h"

namespace deltacome::cpu {
namespace {

/// Body over pieces of [0, size), for ops of few instructions an element.
template <class Body>
void for_elements(const Runtime& runtime, int64_t size, const Body& body) {
  constexpr int64_t kPiece = 1 << 14;
  runtime.pool.parallel_for(size, size < (1 << 18) ? size : kPiece, body);
}

void read_row(const WeightView& table, int64_t row, float* out) {
  const std::byte* in = table.data + row * table.n_in * dtype_bytes(table.dtype);
  convert_to_float(in, table.dtype, {out, static_cast<size_t>(table.n_in)});
}

/// Embeddings of one variant: the base's table and the variant's tensor of its slot.
class Embedding {
 public:
  Embedding(const Runtime& runtime, const WeightView& table, const VariantTensor* tensor)
      : runtime_(runtime), table_(table), tensor_(tensor) {
    if (tensor_ == nullptr) return;
    DELTACOME_CHECK(tensor_->format.n_in() == table_.n_in);
    if (tensor_->format.codec != Codec::kRaw && tensor_->format.codec != Codec::kDense) {
      fail(ErrorCode::kUnsupported, "{} deltas of embeddings; expected raw or dense",
           codec_name(tensor_->format.codec));
    }
  }

  int64_t n_ids() const { return tensor_ == nullptr ? table_.n_rows : tensor_->n_out(); }

  void read(int64_t id, float* out) const {
    if (tensor_ == nullptr) return read_row(table_, id, out);
    if (tensor_->format.codec == Codec::kRaw) return read_row(tensor_->raw, id, out);
    const int64_t coded = tensor_->format.base_rows;
    if (id >= coded) return read_row(tensor_->added, id - coded, out);
    read_row(table_, id, out);
    const int64_t n = table_.n_in;
    float* delta = thread_scratch(2 * n).data();
    if (tensor_->packed) {
      tensor_->packed_dense.decode_row(id, delta);
    } else {
      tensor_->dense.decode(runtime_.kernels, {id, 1, 0, n}, delta, n, delta + n);
    }
    for (int64_t i = 0; i < n; ++i) out[i] += delta[i];
  }

 private:
  Runtime runtime_;
  WeightView table_;
  const VariantTensor* tensor_;
};

}  // namespace

void embed(const Runtime& runtime, const CpuVariantPlan& plan, int slot,
           std::span<const int32_t> ids, const Tensor& table, const Tensor& y) {
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t width = table.cols();
  DELTACOME_CHECK(plan.n_rows() == n && y.rows() == n && (n == 0 || y.cols() == width));
  const WeightView view{bytes_of(table), table.dtype, table.rows(), width};
  for (const CpuVariantPlan::Group& group : plan.groups()) {
    const Embedding embedding(runtime, view, group.find(slot));
    for (const int64_t row : group.rows) {
      const int64_t id = ids[static_cast<size_t>(row)];
      if (id < 0 || id >= embedding.n_ids()) {
        fail(ErrorCode::kInvalidArgument, "token id {} of row {}, expected 0 to {}", id, row,
             embedding.n_ids() - 1);
      }
      embedding.read(id, f32(y) + row * width);
    }
  }
}

void rms_norm(const Runtime& runtime, const CpuVariantPlan& plan, int slot, const Tensor& x,
              const Tensor& weight, double eps, const Tensor& y) {
  const int64_t d = weight.size();
  const int64_t width = x.cols();
  DELTACOME_CHECK(plan.n_rows() == x.rows() && y.shape == x.shape && d > 0 && width % d == 0);
  std::vector<float> base(static_cast<size_t>(d));
  convert_to_float(bytes_of(weight), weight.dtype, base);
  const auto normalize = [&](const float* in, const float* w, float* out) {
    const double mean =
        static_cast<double>(runtime.kernels.sum_squares(in, d)) / static_cast<double>(d);
    runtime.kernels.scale(in, static_cast<float>(1.0 / std::sqrt(mean + eps)), w, d, out);
  };
  for (const CpuVariantPlan::Group& group : plan.groups()) {
    const VariantTensor* own = group.find(slot);
    DELTACOME_CHECK(own == nullptr || static_cast<int64_t>(own->values.size()) == d);
    const float* w = own == nullptr ? base.data() : own->values.data();
    const auto n = static_cast<int64_t>(group.rows.size());
    runtime.pool.parallel_for(n, grain_of(n, n * width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = group.rows[static_cast<size_t>(i)];
        for (int64_t at = row * width; at < (row + 1) * width; at += d)
          normalize(f32(x) + at, w, f32(y) + at);
      }
    });
  }
}

void silu_mul(const Runtime& runtime, const Tensor& gate, const Tensor& up, const Tensor& out) {
  DELTACOME_CHECK(gate.size() == up.size() && out.size() == gate.size());
  const float *g = f32(gate), *u = f32(up);
  float* o = f32(out);
  for_elements(runtime, out.size(), [&](int64_t begin, int64_t end) {
    runtime.kernels.silu_mul(g + begin, u + begin, end - begin, o + begin);
  });
}

void add(const Runtime& runtime, const Tensor& x, const Tensor& y) {
  DELTACOME_CHECK(x.size() == y.size());
  const float* from = f32(x);
  float* to = f32(y);
  for_elements(runtime, y.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] += from[i];
  });
}

void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) {
  DELTACOME_CHECK(y.rows() == static_cast<int64_t>(rows.size()));
  DELTACOME_CHECK(rows.empty() || y.cols() == x.cols());
  const int64_t width = x.cols();
  float* to = f32(y);
  for (const int32_t row : rows) {
    DELTACOME_CHECK(row >= 0 && row < x.rows());
    to = std::copy_n(f32(x) + row * width, width, to);
  }
}

}  // namespace deltacome::cpu
