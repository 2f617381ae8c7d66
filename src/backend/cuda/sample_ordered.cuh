// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/sample_weights.cuh"

namespace deltacome::cuda {

// A row's tokens in the order of choice, by a block of threads, without being put into it.

constexpr int kDrawThreads = 1024;
constexpr int kDrawWarps = kDrawThreads / 32;
constexpr int kDrawSorted = 2048;  // tokens that are sorted in shared memory
constexpr int kDrawParts = 1024;   // of a bin that has more
static_assert(kSampleBins == 2 * kDrawThreads && kDrawParts == kDrawThreads);

/// How many tokens come first, in the order of choice, and their mass.
struct Prefix {
  int count = 0;
  double mass = 0;
};
__device__ inline Prefix operator+(const Prefix& a, const Prefix& b) {
  return {a.count + b.count, a.mass + b.mass};
}

/// Running sums of a Prefix of each thread, in the order of threads; `all` becomes that of all. The
/// whole block calls it.
__device__ inline Prefix scan(Prefix own, Prefix* of_warp, Prefix* all) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Prefix other{__shfl_up_sync(0xffffffffu, own.count, step),
                       __shfl_up_sync(0xffffffffu, own.mass, step)};
    if (lane >= step) own = other + own;
  }
  __syncthreads();  // the sums of the call before have been read
  if (lane == 31) of_warp[warp] = own;
  __syncthreads();
  Prefix before, sum;
  for (int w = 0; w < kDrawWarps; ++w) {
    if (w < warp) before = before + of_warp[w];
    sum = sum + of_warp[w];
  }
  *all = sum;
  return before + own;
}

struct DrawShared {
  Prefix until[kSampleBins];  // of the row, up to the end of each bin
  union {
    uint64_t keys[kDrawSorted];
    struct {
      unsigned long long mass[kDrawParts];
      uint32_t count[kDrawParts];
    } parts;
  };
  Prefix of_warp[kDrawWarps];
  uint64_t least, greatest;
  Prefix found;
  int found_at, n, id;
};

/// A row's tokens in the order of choice, without being put into it. All members are called by a
/// whole block and give all threads the same.
class Ordered {
 public:
  __device__ Ordered(const Draw& a, const SampleRow& row, const Weights& weights,
                     DrawShared& shared)
      : logits_(a.logits + row.row * a.width),
        n_(row.vocab_size),
        lists_{a.keys + 2 * blockIdx.x * a.width, a.keys + (2 * blockIdx.x + 1) * a.width},
        weights_(weights),
        s_(shared) {
    const SampleBins& bins = a.bins[blockIdx.x];
    Prefix own[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int bin = 2 * static_cast<int>(threadIdx.x) + h;
      own[h] = {static_cast<int>(bins.count[bin]),
                Weights::mass_of(bins.mass[bin], Weights::shift_of(bin))};
    }
    const Prefix end = scan(own[0] + own[1], s_.of_warp, &all_);
    s_.until[2 * threadIdx.x] = {end.count - own[1].count, end.mass - own[1].mass};
    s_.until[2 * threadIdx.x + 1] = end;
    __syncthreads();
  }

  __device__ Prefix all() const {
    return all_;
  }
  /// Tokens of weight `least` or more.
  __device__ int count_from(double least) const {
    // Only those near it are looked at.
    const auto nats = static_cast<float>(-log(least));
    int n = 0;
    for_logits([&](float logit, int) {
      const float at = (weights_.largest - logit) * static_cast<float>(weights_.by);
      if (at < nats - 1) {
        ++n;
      } else if (at < nats + 1) {
        const double weight = weights_(logit);
        if (weight > 0 && weight >= least) ++n;
      }
    });
    Prefix sum;
    scan({n, 0.0}, s_.of_warp, &sum);
    return sum.count;
  }

  struct Found {
    Prefix until;  // that token included
    int id;
  };
  /// The first token up to which the Prefix satisfies `condition`, or the last one; a condition
  /// that holds goes on to hold.
  template <class Condition>
  __device__ Found find(const Condition& condition) {
    // Of those that have tokens: sums are rounded, so the condition may begin to hold at others.
    const int bin = first_of(kSampleBins, [&](int i) {
      const Prefix until = s_.until[i];
      return until.count > before_bin(i).count && (until.count == all_.count || condition(until));
    });
    if (bin != bin_) gather(bin);
    Prefix before = before_bin(bin);
    const uint64_t* list = lists_[0];
    int n = n_gathered_;
    for (int turn = 1; n > kDrawSorted; turn ^= 1) {
      before = narrow(bin, list, lists_[turn], n, before, condition);
      list = lists_[turn];
      n = s_.n;
      if (turn == 0) bin_ = -1;  // the gathered list is overwritten
    }
    return find_sorted(list, n, before, condition);
  }

 private:
  /// body(logit, id) for all of the row, several on their way at a time.
  template <class Body>
  __device__ void for_logits(const Body& body) const {
    constexpr int kAtOnce = 8;
    for (int first = static_cast<int>(threadIdx.x); first < n_; first += kAtOnce * kDrawThreads) {
      float logit[kAtOnce];
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int i = first + e * kDrawThreads;
        logit[e] = i < n_ ? logits_[i] : 0.0f;
      }
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int i = first + e * kDrawThreads;
        if (i < n_) body(logit[e], i);
      }
    }
  }
  /// The smallest index of n for which `holds`, n if there is none.
  template <class Holds>
  __device__ int first_of(int n, const Holds& holds) {
    __syncthreads();
    if (threadIdx.x == 0) s_.found_at = n;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kDrawThreads) {
      if (holds(i)) {
        atomicMin(&s_.found_at, i);
        break;
      }
    }
    __syncthreads();
    return s_.found_at;
  }
  __device__ Prefix before_bin(int bin) const {
    return bin == 0 ? Prefix() : s_.until[bin - 1];
  }
  __device__ void append(uint64_t* list, uint64_t key) {
    list[atomicAdd(&s_.n, 1)] = key;
  }

  __device__ void gather(int bin) {
    __syncthreads();
    if (threadIdx.x == 0) s_.n = 0;
    __syncthreads();
    const bool inside = Weights::is_inside(bin);
    for_logits([&](float logit, int id) {
      if (isnan(logit) || weights_.bin_of(logit) != bin) return;
      if (inside || weights_(logit) > 0) append(lists_[0], draw_key(logit, id));
    });
    __syncthreads();
    n_gathered_ = s_.n;
    bin_ = bin;
  }

  /// Tokens of `from` among which the one is that find() looks for, to `to`, and s_.n of them.
  /// Returns what comes before them. Parts are of equal length between the least and the greatest
  /// key, so that there are at least two.
  template <class Condition>
  __device__ Prefix narrow(int bin, const uint64_t* from, uint64_t* to, int n, const Prefix& before,
                           const Condition& condition) {
    const int shift = Weights::shift_of(bin);
    __syncthreads();
    if (threadIdx.x == 0) {
      s_.least = ~uint64_t{0};
      s_.greatest = 0;
    }
    s_.parts.mass[threadIdx.x] = 0;
    s_.parts.count[threadIdx.x] = 0;
    __syncthreads();
    uint64_t least = ~uint64_t{0}, greatest = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kDrawThreads) {
      least = min(least, from[i]);
      greatest = max(greatest, from[i]);
    }
    atomicMin(reinterpret_cast<unsigned long long*>(&s_.least), least);
    atomicMax(reinterpret_cast<unsigned long long*>(&s_.greatest), greatest);
    __syncthreads();
    greatest = s_.greatest;
    const uint64_t length = (greatest - s_.least) / kDrawParts + 1;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kDrawThreads) {
      const auto part = static_cast<int>((greatest - from[i]) / length);
      atomicAdd(&s_.parts.mass[part], Weights::whole(weights_(value_of(from[i])), shift));
      atomicAdd(&s_.parts.count[part], 1u);
    }
    __syncthreads();
    const auto in_part = static_cast<int>(s_.parts.count[threadIdx.x]);
    const Prefix own{in_part, Weights::mass_of(s_.parts.mass[threadIdx.x], shift)};
    Prefix all;
    const Prefix end = before + scan(own, s_.of_warp, &all);
    const bool is_last = end.count - before.count == n;
    const int me = static_cast<int>(threadIdx.x);
    const int part =
        first_of(kDrawThreads, [&](int) { return in_part > 0 && (is_last || condition(end)); });
    if (me == part) s_.found = {end.count - own.count, end.mass - own.mass};
    if (me == 0) s_.n = 0;
    __syncthreads();
    for (int i = me; i < n; i += kDrawThreads) {
      if (static_cast<int>((greatest - from[i]) / length) == part) append(to, from[i]);
    }
    __syncthreads();
    return s_.found;
  }

  template <class Condition>
  __device__ Found find_sorted(const uint64_t* list, int n, Prefix before,
                               const Condition& condition) {
    int size = 32;
    while (size < n) size *= 2;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kDrawThreads)
      s_.keys[i] = i < n ? list[i] : 0;
    sort_keys(s_.keys, size);
    for (int base = 0; base < n; base += kDrawThreads) {
      const int i = base + static_cast<int>(threadIdx.x);
      Prefix own, all;
      if (i < n) own = {1, weights_(value_of(s_.keys[i]))};
      const Prefix until = before + scan(own, s_.of_warp, &all);
      const bool holds = i < n && (i == n - 1 || condition(until));
      const int at = first_of(kDrawThreads, [&](int) { return holds; });
      if (at < kDrawThreads) {
        if (static_cast<int>(threadIdx.x) == at) {
          s_.found = until;
          s_.id = id_of(s_.keys[i]);
        }
        __syncthreads();
        return {s_.found, s_.id};
      }
      before = before + all;
    }
    return {before, 0};  // n is 0: never
  }

  const float* logits_;
  int n_;
  uint64_t* lists_[2];
  const Weights& weights_;
  DrawShared& s_;
  Prefix all_;
  int bin_ = -1;  // of lists_[0], which has n_gathered_ tokens
  int n_gathered_ = 0;
};

}  // namespace deltacome::cuda
