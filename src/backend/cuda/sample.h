// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace deltacome::cuda {

/// SampleParams of one row as kernels read them; temperature > 0.
struct SampleRow {
  double uniform = 0;
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0, vocab_size = 0;
  int32_t row = 0;  // of the logits
};

/// tokens[i] = the smallest index of the largest logit among the first vocab[i] of row i; a NaN is
/// not larger than anything. logits [n, width].
cudaError_t launch_first_largest(const float* logits, int64_t width, const int32_t* vocab, int n,
                                 int32_t* tokens, cudaStream_t stream);

/// Bins of a row's tokens by their distance from the largest logit: all of a bin have weights
/// within a factor of 2, and no token of a bin comes before one of the bin before.
constexpr int kSampleBins = 2048;
struct SampleBins {
  uint64_t mass[kSampleBins];   // sum of weights, in a unit of the bin's: exact, so in any order
  uint32_t count[kSampleBins];  // of tokens with a weight above 0
};

/// Draws of n rows, without sorting them: weights are summed by bins, and only a bin in which a
/// limit lies is put into order. Arrays are in device memory, their contents undefined but for
/// `bins`, which are zeros.
struct Draw {
  const float* logits = nullptr;  // [*, width]
  int64_t width = 0;
  const SampleRow* rows = nullptr;  // [n]
  int n = 0;                        // at most 65535
  SampleBins* bins = nullptr;       // [n]
  uint64_t* keys = nullptr;         // [n, 2, width]
};
/// tokens[rows[i].row], which holds the token of the largest logit, becomes a draw if that logit is
/// finite.
cudaError_t launch_draw(const Draw& args, int32_t* tokens, cudaStream_t stream);

}  // namespace deltacome::cuda
