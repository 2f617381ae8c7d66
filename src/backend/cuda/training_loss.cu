// SPDX-License-Identifier: Apache-2.0
// Rows of softmaxes: of attention scores, and of logits against a teacher's.
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/training_kernels.h"

namespace deltacome::cuda {
namespace {

constexpr int kScoreBlock = 128;
constexpr int kLossBlock = 512;

/// One row of scores becomes probabilities; returns them in place.
struct SeenKeys {
  int64_t begin, end;
};
__device__ SeenKeys seen_keys(const Scores& s, int64_t query) {
  const int64_t position = s.position + query;
  int64_t begin = s.window == 0 ? 0 : position - s.window + 1;
  begin = (begin < 0 ? 0 : begin) - s.first_key;
  return {begin < 0 ? 0 : begin, position + 1 - s.first_key};
}

/// Grid (n_heads * n_queries), block (kScoreBlock).
template <bool kBackward>
__global__ void softmax_kernel(Scores s, float* __restrict__ scores,
                               float* __restrict__ gradients) {
  float* row = scores + blockIdx.x * s.n_keys;
  const SeenKeys seen = seen_keys(s, blockIdx.x % s.n_queries);
  const auto is_seen = [&](int64_t i) { return i >= seen.begin && i < seen.end; };
  float largest = -INFINITY;
  for (int64_t i = seen.begin + threadIdx.x; i < seen.end; i += kScoreBlock)
    largest = fmaxf(largest, row[i]);
  largest = join_block(largest, Larger());
  float sum = 0;
  for (int64_t i = threadIdx.x; i < s.n_keys; i += kScoreBlock) {
    const float p = is_seen(i) ? expf((row[i] - largest) * s.scale) : 0.0f;
    row[i] = p;
    sum += p;
  }
  const float inverse = 1.0f / join_block(sum, Plus());
  float dot = 0;
  if constexpr (kBackward) {
    const float* d = gradients + blockIdx.x * s.n_keys;
    for (int64_t i = threadIdx.x; i < s.n_keys; i += kScoreBlock)
      if (is_seen(i)) dot += row[i] * inverse * d[i];
    dot = join_block(dot, Plus());
  }
  for (int64_t i = threadIdx.x; i < s.n_keys; i += kScoreBlock) {
    const float p = row[i] * inverse;
    row[i] = p;
    if constexpr (kBackward) {
      float& d = gradients[blockIdx.x * s.n_keys + i];
      d = is_seen(i) ? p * (d - dot) * s.scale : 0.0f;
    }
  }
}

/// Grid (n), block (kLossBlock), shared 2 k doubles. The tokens outside of the k are summed on
/// their own, relative to their own largest, so that neither their mass nor its logarithm suffers
/// from cancellation or underflow.
__global__ void kl_gradient_kernel(KlGradient a) {
  extern __shared__ double shared[];
  double *top_z = shared, *top_p = shared + a.k;
  const int64_t row = blockIdx.x;
  float* logits = a.logits + row * a.width;
  const int32_t* ids = a.ids + row * a.k;
  const double weight = a.weights[row];
  double p_sum = 0, largest = -INFINITY;
  for (int64_t i = threadIdx.x; i < a.k; i += kLossBlock) {
    top_z[i] = static_cast<double>(logits[ids[i]]);
    top_p[i] = exp(static_cast<double>(a.log_p[row * a.k + i]));
    largest = largest < top_z[i] ? top_z[i] : largest;
    p_sum += top_p[i];
  }
  p_sum = join_block(p_sum, Plus());
  largest = join_block(largest, Larger());  // its barriers also stand before the writes below
  for (int64_t i = threadIdx.x; i < a.k; i += kLossBlock) logits[ids[i]] = -INFINITY;
  __syncthreads();

  const bool has_rest = a.k < a.n_vocab;
  float shift = -INFINITY;
  double rest_sum = 0, rest_largest = -INFINITY;
  if (has_rest) {
    for (int64_t i = threadIdx.x; i < a.n_vocab; i += kLossBlock) shift = fmaxf(shift, logits[i]);
    shift = join_block(shift, Larger());
    for (int64_t i = threadIdx.x; i < a.n_vocab; i += kLossBlock)
      rest_sum += static_cast<double>(expf(logits[i] - shift));
    rest_sum = join_block(rest_sum, Plus());
    rest_largest = static_cast<double>(shift);
    if (largest < rest_largest) largest = rest_largest;
  }
  double sum = 0;
  for (int64_t i = threadIdx.x; i < a.k; i += kLossBlock) sum += exp(top_z[i] - largest);
  sum = join_block(sum, Plus());
  if (has_rest) sum += rest_sum * exp(rest_largest - largest);
  const double log_sum = largest + log(sum);
  const double rest_p = has_rest && p_sum < 1 ? 1 - p_sum : 0;
  const double normalize = rest_p > 0 ? 1 : 1 / p_sum;

  double loss = 0;
  for (int64_t i = threadIdx.x; i < a.k; i += kLossBlock) {
    const double p = top_p[i] * normalize;
    if (p > 0) loss += p * (log(p) - (top_z[i] - log_sum));
  }
  loss = join_block(loss, Plus());
  if (threadIdx.x == 0) {
    if (rest_p > 0) loss += rest_p * (log(rest_p) - (rest_largest + log(rest_sum) - log_sum));
    a.losses[row] = weight * (loss > 0 ? loss : 0);  // it can be below by rounding only
  }
  // q_j - t q_j / q_t, both as multiples of exp(z_j - rest_largest)
  const double by = has_rest ? exp(rest_largest - log_sum) - rest_p / rest_sum : 0;
  const auto scaled = static_cast<float>(by * weight);
  for (int64_t i = threadIdx.x; i < a.width; i += kLossBlock) {
    const bool in_rest = has_rest && i < a.n_vocab;
    logits[i] = in_rest ? expf(logits[i] - shift) * scaled : 0.0f;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.k; i += kLossBlock) {
    const double q = exp(top_z[i] - log_sum);
    logits[ids[i]] = static_cast<float>(weight * (q - top_p[i] * normalize));
  }
}

}  // namespace

cudaError_t launch_softmax(const Scores& shape, float* scores, cudaStream_t stream) {
  const int64_t rows = shape.n_heads * shape.n_queries;
  if (rows == 0) return cudaSuccess;
  softmax_kernel<false>
      <<<static_cast<unsigned>(rows), kScoreBlock, 0, stream>>>(shape, scores, nullptr);
  return cudaGetLastError();
}

cudaError_t launch_softmax_backward(const Scores& shape, float* scores, float* gradients,
                                    cudaStream_t stream) {
  const int64_t rows = shape.n_heads * shape.n_queries;
  if (rows == 0) return cudaSuccess;
  softmax_kernel<true>
      <<<static_cast<unsigned>(rows), kScoreBlock, 0, stream>>>(shape, scores, gradients);
  return cudaGetLastError();
}

cudaError_t launch_kl_gradient(const KlGradient& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  if (args.k > kMostTargets) return cudaErrorInvalidValue;
  const auto bytes = static_cast<size_t>(2 * args.k) * sizeof(double);
  kl_gradient_kernel<<<static_cast<unsigned>(args.n), kLossBlock, bytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
