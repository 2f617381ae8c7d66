// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_prompt.h"

#include <algorithm>

#include "backend/cuda/delta_decode.h"
#include "backend/cuda/delta_pack.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kAligned = 8;    // bf16 elements of 16 bytes: where rows start for cuBLASLt
constexpr int64_t kRowStep = 128;  // rows that are decoded at a time: whole row blocks of any width

/// A matrix [n_rows, cols] of bf16 in workspace.
struct Halves {
  Tensor memory;
  int64_t cols = 0;
  std::byte* at(int64_t row, int64_t col = 0) const {
    return bytes_of(memory) + 2 * (row * cols + col);
  }
};

int64_t padded_rank(const CudaTensor& t) {
  int64_t rank = 0;
  for (const auto& tier : t.tiers) rank += ceil_to(tier.rank, kAligned);
  return rank;
}

class PromptRun {
 public:
  PromptRun(const CudaContext& context, CudaStream& stream, const PromptGroup& group,
            std::span<const int32_t> order, const DeltaBuffers& buffers, int64_t n_in)
      : context_(context),
        stream_(stream),
        group_(group),
        rows_(order.subspan(static_cast<size_t>(group.first), static_cast<size_t>(group.n_rows))),
        buffers_(buffers),
        n_in_(n_in) {}

  void run() {
    const std::span<const PromptGroup::Member> all = group_.members;
    for (size_t i = 0; i < all.size();) {
      const CudaTensor& t = *all[i].tensor;
      prepare(t);
      size_t n = 1;
      if (t.format.codec == Codec::kLowRank) {
        while (i + n < all.size() && shares_input(t, *all[i + n].tensor)) ++n;
        low_rank(all.subspan(i, n));
      } else {
        whole(all[i]);
      }
      i += n;
    }
  }

 private:
  static bool is_rotated(const CudaTensor& t) { return t.format.codec == Codec::kVector; }
  static bool shares_input(const CudaTensor& a, const CudaTensor& b) {
    return b.format.codec == Codec::kLowRank && a.col_gain_values == b.col_gain_values;
  }

  /// Inputs as `t` multiplies them, unless they are.
  void prepare(const CudaTensor& t) {
    if (of_ != nullptr && is_rotated(*of_) == is_rotated(t) &&
        of_->col_gain_values == t.col_gain_values &&
        (!is_rotated(t) || of_->format.vector == t.format.vector)) {
      return;
    }
    of_ = &t;
    x_ = halves(group_.n_rows, ceil_to(n_in_, kAligned));
    PromptInput input;
    input.x = buffers_.x;
    input.x_stride = buffers_.x_stride;
    input.rows = buffers_.rows + group_.first;
    input.gains = t.col_gain;
    input.n_rows = static_cast<int32_t>(group_.n_rows);
    input.cols = static_cast<int32_t>(n_in_);
    input.padded = static_cast<int32_t>(x_.cols);
    if (is_rotated(t)) {
      input.seed = t.format.vector.seed;
      input.block = static_cast<int32_t>(t.format.vector.block);
    }
    input.out = x_.at(0);
    DELTACOME_CUDA_CHECK(launch_prompt_input(input, stream_.get()));
  }

  /// Tensors with one input: their V are one matrix.
  void low_rank(std::span<const PromptGroup::Member> members) {
    int64_t rank = 0;
    for (const auto& member : members) rank += padded_rank(*member.tensor);
    if (rank == 0) return;
    const Halves z = halves(group_.n_rows, rank);
    for_chunks(rank, x_.cols, [&](int64_t first, int64_t n, const Halves& w) {
      int64_t at = 0;  // of a tier's first component
      for (const auto& member : members) {
        const CudaTensor& t = *member.tensor;
        int64_t of_tensor = 0;
        for (const auto& tier : t.tiers) {
          const int64_t padded = ceil_to(tier.rank, kAligned);
          const int64_t begin = std::max(first, at), end = std::min(first + n, at + padded);
          if (begin < end) {
            DecodeJob job = job_of(t.packed ? &tier.v : nullptr, tier.plain_v, false, w);
            job.row_factor = t.packed ? nullptr : t.s + of_tensor;
            job.first = begin - at;
            job.n = end - begin;
            job.out = w.at(begin - first);
            add(job);
          }
          at += padded;
          of_tensor += tier.rank;
        }
      }
      flush();
      multiply(w, n, x_, 0, {.y = z.at(0, first), .y_stride = rank, .result = Element::kBf16});
    });
    int64_t at = 0;
    for (const auto& member : members) {
      const CudaTensor& t = *member.tensor;
      const int64_t own = padded_rank(t);
      for_chunks(t.format.base_rows, own, [&](int64_t first, int64_t n, const Halves& w) {
        int64_t col = 0;
        for (const auto& tier : t.tiers) {
          DecodeJob job = job_of(t.packed ? &tier.u : nullptr, tier.plain_u, true, w);
          job.row_factor = t.packed ? nullptr : t.row_gain;
          job.first = first;
          job.n = n;
          job.cols = ceil_to(tier.rank, kAligned);
          job.out = w.at(0, col);
          add(job);
          col += job.cols;
        }
        flush();
        add_to_target(member.target, first, n, w, z, at);
      });
      at += own;
    }
  }

  /// A delta that is one matrix.
  void whole(const PromptGroup::Member& member) {
    const CudaTensor& t = *member.tensor;
    for_chunks(t.format.base_rows, x_.cols, [&](int64_t first, int64_t n, const Halves& w) {
      const bool coded = is_rotated(t) || t.packed;
      DecodeJob job = job_of(coded ? &t.matrix : nullptr, t.plain, false, w);
      job.first = first;
      job.n = n;
      job.out = w.at(0);
      if (is_rotated(t)) {
        DELTACOME_CUDA_CHECK(
            launch_decode_vectors(job, t.format.vector.dim, context_.n_sms, stream_.get()));
      } else {
        add(job);
        flush();
      }
      add_to_target(member.target, first, n, w, x_, 0);
    });
  }

  /// For each run of rows of a matrix [n_rows, cols] that is decoded at once: first, count, memory.
  template <class Body>
  void for_chunks(int64_t n_rows, int64_t cols, const Body& body) {
    const int64_t most =
        std::max(kRowStep, context_.decoded_bytes / (2 * cols) / kRowStep * kRowStep);
    for (int64_t first = 0; first < n_rows; first += most) {
      const int64_t n = std::min(most, n_rows - first);
      body(first, n, halves(n, cols));
    }
  }

  static DecodeJob job_of(const PackedMatrix* packed, const PlainArray& plain, bool transposed,
                          const Halves& w) {
    DecodeJob job;
    if (packed != nullptr) job.matrix = *packed;
    job.array = plain;
    job.transposed = transposed;
    job.cols = job.stride = w.cols;
    return job;
  }
  void add(const DecodeJob& job) {
    jobs_.jobs[jobs_.n++] = job;
    if (jobs_.n == kDecodeJobs) flush();
  }
  void flush() {
    DELTACOME_CUDA_CHECK(launch_decode(jobs_, stream_.get()));
    jobs_ = {};
  }

  /// y[:, first...] of the group's rows += in[:, col...] w^T.
  void add_to_target(int target, int64_t first, int64_t n, const Halves& w, const Halves& in,
                     int64_t col) {
    for (size_t begin = 0; begin < rows_.size();) {  // runs of neighbours in the batch
      size_t end = begin + 1;
      while (end < rows_.size() && rows_[end] == rows_[end - 1] + 1) ++end;
      Halves part = in;
      part.memory = in.memory.slice(static_cast<int64_t>(begin), static_cast<int64_t>(end - begin));
      const int64_t stride = buffers_.y_stride[target];
      multiply(w, n, part, col,
               {.y = buffers_.y[target] + rows_[begin] * stride + first,
                .y_stride = stride,
                .accumulates = true});
      begin = end;
    }
  }
  void multiply(const Halves& w, int64_t n, const Halves& in, int64_t col, Gemm gemm) {
    gemm.w = w.at(0);
    gemm.x = in.at(0, col);
    gemm.n_rows = in.memory.rows();
    gemm.n_out = n;
    gemm.n_in = gemm.w_stride = w.cols;
    gemm.x_stride = in.cols;
    if (context_.lt_matmul->multiply(stream_, gemm)) return;
    fail(ErrorCode::kDevice, "cuBLASLt has no product of {} rows, {} inputs and {} outputs",
         gemm.n_rows, gemm.n_in, gemm.n_out);
  }

  Halves halves(int64_t rows, int64_t cols) const {
    return {context_.allocate(DType::kBf16, {rows, cols}), cols};
  }

  const CudaContext& context_;
  CudaStream& stream_;
  const PromptGroup& group_;
  std::span<const int32_t> rows_;
  const DeltaBuffers& buffers_;
  int64_t n_in_;
  Halves x_;
  const CudaTensor* of_ = nullptr;  // x_ is as this one multiplies it
  DecodeJobs jobs_;
};

}  // namespace

bool is_decoded(const CudaTensor& tensor, int64_t n_rows, const DecodeRows& from) {
  switch (tensor.format.codec) {
    case Codec::kRaw:
      return false;
    case Codec::kDense:
      return n_rows >= from.dense;
    case Codec::kLowRank:
      return n_rows >= from.low_rank;
    case Codec::kVector:
      return n_rows >= from.vector;
  }
  return false;
}

void multiply_prompt(const CudaContext& context, CudaStream& stream, const PromptGroup& group,
                     std::span<const int32_t> order, const DeltaBuffers& buffers, int64_t n_in) {
  PromptRun(context, stream, group, order, buffers, n_in).run();
}

}  // namespace deltacome::cuda
