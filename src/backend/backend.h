// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "backend/weight_format.h"
#include "core/host_tensor.h"
#include "quant/format.h"
#include "quant/quantized_matrix.h"

namespace deltacome {

class CompressionOps;
class TrainingOps;
class VisionOps;

/// Orders work: ops on one stream run one after another. The CPU runs each op before it returns.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() = 0;
};

/// One variant's tensors in a backend's memory, still packed, by slot. A slot is the index of a
/// tensor in expected_tensors() of the base's configuration; a slot that was never set equals the
/// base.
class DeviceVariant {
 public:
  virtual ~DeviceVariant() = default;
  /// Takes over one tensor; the backend may repack it, but keeps it coded. `blob` holds
  /// layout_of(format).total_bytes. Stream-ordered, so that a variant can be loaded layer by layer.
  virtual void set(int slot, const MatrixFormat& format, const HostTensor& blob,
                   Stream& stream) = 0;
  /// Bytes held in the backend's memory.
  virtual int64_t resident_bytes() const noexcept = 0;
};

/// Rows of a batch that belong to one variant.
struct VariantSegment {
  std::shared_ptr<const DeviceVariant> variant;  // null = base
  int64_t n_rows = 0;
};

/// Which variant owns which rows of a batch. Made on the host once per batch composition.
class VariantPlan {
 public:
  virtual ~VariantPlan() = default;
};

/// One sequence's part of a batch: its next n_rows tokens, after n_past tokens that are in the
/// cache.
struct SequenceChunk {
  int64_t n_rows = 0;
  int64_t n_past = 0;
  std::span<const int32_t> block_table;  // block of tokens [i * kKvBlock, (i + 1) * kKvBlock)
};

inline constexpr int64_t kKvBlock = 16;  // tokens per block of the paged KV cache

/// Elements of a token's keys, or values, in a cache. U8: for each head its values as int8, x =
/// scale * code, and then the scale, f32.
inline int64_t kv_row(DType dtype, int64_t n_kv_heads, int64_t head_dim) {
  return n_kv_heads * (head_dim + (dtype == DType::kU8 ? 4 : 0));
}

/// Positions, block tables and lengths of a batch. Made on the host once per batch composition; it
/// copies what it needs.
class AttentionPlan {
 public:
  virtual ~AttentionPlan() = default;
};

/// One matrix of a linear() call: y = W x + b, with the variant's delta of slot `slot` added.
struct LinearTarget {
  int slot = -1;
  Tensor weight;       // [n_out, n_in], any floating dtype
  int bias_slot = -1;  // slot of the bias, used if `bias` is not empty
  Tensor bias;         // [n_out] or empty
  Tensor y;            // [n_rows, >= n_out of every variant in the plan]; see linear()
};

struct AttentionShape {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;  // keys a query sees, itself included; 0 = all
};

/// How one row's next token is chosen. temperature 0 = the first of the largest logits. Otherwise:
/// softmax(logits / temperature), restricted to the top_k largest, then to the smallest set whose
/// mass reaches top_p, then to those with at least min_p of the largest probability; drawn with
/// `uniform`.
struct SampleParams {
  float temperature = 0;
  int top_k = 0;           // 0 = off
  float top_p = 1;         // 1 = off
  float min_p = 0;         // 0 = off
  double uniform = 0;      // in [0, 1), from the request's own random stream
  int64_t vocab_size = 0;  // columns of the row that exist for its variant
};

/// A projection as import_quantized() holds it.
struct QuantizedImport {
  Tensor tensor;
  int64_t bytes = 0;          // codes, scales and zeros, without padding
  double relative_error = 0;  // ||held - W||_F / ||W||_F; 0 = the checkpoint's values exactly
};

/// Bytes of a backend's memory by what they are for; all 0 where nobody counts (the CPU).
struct MemoryUse {
  int64_t weights = 0, variants = 0, kv_cache = 0, workspace = 0;  // in use
  int64_t held = 0;    // taken from the device: those and what is kept for the next
  int64_t peak = 0;    // the most that `held` was
  int64_t budget = 0;  // what `held` may reach
  int64_t device_total = 0, device_free = 0;  // as the driver says, other programs included
};

/// Steps of batches whose ops a backend records once and replays: what a step is made of may change
/// (variants, positions, block tables), its shapes and tensors may not. Used by one stream.
class StepRecorder {
 public:
  virtual ~StepRecorder() = default;
  struct Plans {
    const VariantPlan& variants;
    const AttentionPlan& attention;
  };
  /// Plans of the next step, valid until the next begin().
  virtual Plans begin(Stream& stream, std::span<const int64_t> key,
                      std::span<const VariantSegment> segments,
                      std::span<const SequenceChunk> chunks) = 0;
  /// Runs `ops`, which use the plans of begin(), or what was recorded of an earlier step with the
  /// same key. Ops of equal keys must be the same ops on the same tensors; they take nothing from
  /// the host (no embed(), gather_rows(), sample(), upload()), and what they allocate is theirs.
  virtual void run(Stream& stream, const std::function<void()>& ops) = 0;
};

/// What runs a model: a CPU with its threads, or a GPU with its streams. Activations are f32
/// tensors, row-major, one row a token. All ops are stream-ordered; inputs and outputs do not alias
/// unless said. Shapes are the caller's promise (checked by DELTACOME_CHECK). One thread at a time
/// per backend, but for loading: a second thread with a stream of its own may at any time call
/// create_variant(), set() and resident_bytes() of a variant that no plan has named yet, and
/// destroy a variant that no plan names any more.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu (AVX-512, 2 threads)"
  /// Whether ops keep the host's cores busy, so that other threads take their time from them.
  virtual bool uses_host_cores() const { return true; }
  virtual std::unique_ptr<Stream> create_stream() = 0;

  // Memory. allocate() throws kOutOfMemory; its contents are undefined.
  virtual Tensor allocate(DType dtype, Shape shape) = 0;
  /// The same for keys and values, which are counted apart.
  virtual Tensor allocate_kv(DType dtype, Shape shape) { return allocate(dtype, std::move(shape)); }
  /// A weight: the backend may share the host's bytes (it keeps their owner) or copy them.
  virtual Tensor import_weight(const HostTensor& host) = 0;
  /// A matrix [n_out, n_in] that only linear() reads. Throws kUnsupported for a format that the
  /// backend does not have.
  virtual Tensor import_projection(const HostTensor& host, WeightFormat format) = 0;
  /// A quantized matrix that only linear() reads: in its low precision where the backend has a
  /// layout for it, in the checkpoint's 16-bit type otherwise (this implementation).
  virtual QuantizedImport import_quantized(const QuantizedMatrix& matrix) {
    const HostTensor host = matrix.dequantize();
    return {import_weight(host), static_cast<int64_t>(host.bytes.size()), 0};
  }
  virtual MemoryUse memory_use() const { return {}; }  // thread-safe
  virtual void upload(Stream& stream, std::span<const std::byte> host, const Tensor& to) = 0;
  /// Returns when the bytes have arrived.
  virtual void download(Stream& stream, const Tensor& from, std::span<std::byte> host) = 0;

  // Variants.
  virtual std::shared_ptr<DeviceVariant> create_variant(int n_slots) = 0;
  virtual std::unique_ptr<VariantPlan> plan_variants(std::span<const VariantSegment> segments) = 0;

  // Inference. Where a plan and a slot are given, each row uses its own variant's tensor.
  /// y[i] = table[ids[i]] + delta row; ids [n] i32 on the host; y [n, hidden]. Ids beyond the
  /// base's rows are rows that the variant added. Throws kInvalidArgument for an id that the row's
  /// variant lacks.
  virtual void embed(Stream& stream, const VariantPlan& plan, int slot,
                     std::span<const int32_t> ids, const Tensor& table, const Tensor& y) = 0;
  /// y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension. x, y [n, k * d], weight [d]:
  /// each of the k pieces of a row is normalized on its own (k > 1 for the q/k norms). y may be x.
  virtual void rms_norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& x,
                        const Tensor& weight, double eps, const Tensor& y) = 0;
  /// y += x, then z = y / sqrt(mean(y^2) + eps) * weight: add() and rms_norm(). z is not y.
  virtual void add_rms_norm(Stream& stream, const VariantPlan& plan, int slot, const Tensor& x,
                            const Tensor& y, const Tensor& weight, double eps, const Tensor& z) {
    add(stream, x, y);
    rms_norm(stream, plan, slot, y, weight, eps, z);
  }
  /// For each target y = W x + b + (U diag(s) V) x, from the packed codes. x [n, n_in]. All targets
  /// share x. Columns of y beyond the base's n_out belong to added rows: written for variants that
  /// have them, left alone otherwise. A row's result does not depend on the other rows.
  virtual void linear(Stream& stream, const VariantPlan& plan, const Tensor& x,
                      std::span<const LinearTarget> targets) = 0;
  virtual std::unique_ptr<AttentionPlan> plan_attention(std::span<const SequenceChunk> chunks) = 0;
  /// Rotates pairs (i, i + head_dim / 2) of each head in place by position * inv_freq[i].
  /// x [n, heads * head_dim], inv_freq [head_dim / 2] f32.
  virtual void rope(Stream& stream, const AttentionPlan& plan, const Tensor& x,
                    const Tensor& inv_freq) = 0;
  /// Appends k, v [n, n_kv_heads * head_dim] to the caches [n_blocks, kKvBlock, kv_row()]: F32,
  /// BF16, or U8 (int8 codes). A token that is not finite stays so.
  virtual void store_kv(Stream& stream, const AttentionPlan& plan, const Tensor& k, const Tensor& v,
                        const Tensor& k_cache, const Tensor& v_cache) = 0;
  /// rope() of q and k, then store_kv().
  virtual void rope_and_store(Stream& stream, const AttentionPlan& plan, const Tensor& q,
                              const Tensor& k, const Tensor& v, const Tensor& inv_freq,
                              const Tensor& k_cache, const Tensor& v_cache) {
    rope(stream, plan, q, inv_freq);
    rope(stream, plan, k, inv_freq);
    store_kv(stream, plan, k, v, k_cache, v_cache);
  }
  /// Causal attention over the block tables, softmax(q k / sqrt(head_dim)) v, after store_kv of the
  /// same chunk. q, out [n, n_heads * head_dim].
  virtual void attention(Stream& stream, const AttentionPlan& plan, const AttentionShape& shape,
                         const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                         const Tensor& out) = 0;
  /// out = silu(gate) * up; out may be gate.
  virtual void silu_mul(Stream& stream, const Tensor& gate, const Tensor& up,
                        const Tensor& out) = 0;
  /// y += x.
  virtual void add(Stream& stream, const Tensor& x, const Tensor& y) = 0;
  /// y[i] = x[rows[i]].
  virtual void gather_rows(Stream& stream, const Tensor& x, std::span<const int32_t> rows,
                           const Tensor& y) = 0;
  /// One token id per row of logits [n, vocab] f32, to the host.
  virtual void sample(Stream& stream, const Tensor& logits, std::span<const SampleParams> params,
                      std::span<int32_t> tokens) = 0;

  /// Null if the backend gains nothing by recording.
  virtual std::unique_ptr<StepRecorder> create_step_recorder() { return nullptr; }

  /// The dense float64 ops that compression needs. Throws kUnsupported if the backend has none.
  virtual CompressionOps& compression() = 0;
  /// The float32 ops of distillation. Throws kUnsupported if the backend has none.
  virtual TrainingOps& training() = 0;
  /// The ops of vision towers. Throws kUnsupported if the backend has none.
  virtual VisionOps& vision() = 0;
};

/// The CPU; n_threads 0 = one per core.
std::unique_ptr<Backend> create_cpu_backend(int n_threads = 0);
struct CudaOptions {
  int index = 0;             // of the device
  int64_t memory_bytes = 0;  // it takes at most as much of the device's memory; 0 = what is free
  /// A row's results have the same bits in every run and in any batch (docs/architecture.md has
  /// what that costs); else some sums are added in the order in which they are ready.
  bool deterministic = false;
};
/// Throws kUnsupported in a build without CUDA, kDevice without such a device, kOutOfMemory if less
/// memory is free.
std::unique_ptr<Backend> create_cuda_backend(const CudaOptions& options = {});

}  // namespace deltacome
