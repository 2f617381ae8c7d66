// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/coded_rows.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/packed_rows.h"
#include "backend/cpu/vector_rows.h"

namespace deltacome::cpu {

/// Signs of the rotations of a variant, by (seed, n_in): its tensors share them.
using RotationSigns =
    std::map<std::pair<uint64_t, int64_t>, std::shared_ptr<const std::vector<float>>>;

/// One tensor of a variant: repacked for the kernels of packed codes, or its blob as stored and
/// views into it.
struct VariantTensor {
  struct Tier {
    CodedRows v;          // [rank, n_in]
    CodedRows u;          // [rank, base_rows]: by component
    PackedRows packed_v;  // [rank, n_in], times s; instead of v
    PackedRows packed_u;  // [base_rows, rank], times row gains; instead of u
    int64_t first = 0;    // component
    int64_t rank = 0;
  };

  MatrixFormat format;
  HostTensor blob;
  std::vector<float> values;  // of a raw vector (norm, bias)
  WeightView raw;             // of a raw matrix
  CodedRows dense;            // [base_rows, n_in]
  PackedRows packed_dense;    // the same, instead
  bool packed = false;        // dense and lowrank: in the packed members
  std::vector<float> s;       // [rank]
  std::vector<Tier> tiers;
  VectorRows vector;                                // [base_rows, n_in], rotated
  std::shared_ptr<const std::vector<float>> signs;  // [n_in], of its rotation
  std::vector<float> row_gain;                      // [base_rows] or empty
  std::vector<float> col_gain;                      // [n_in] or empty
  WeightView added;                                 // rows that the base lacks

  int64_t rank() const noexcept { return static_cast<int64_t>(s.size()); }
  int64_t n_out() const noexcept { return format.n_out(); }
  /// Bytes that only this tensor holds.
  int64_t own_bytes() const noexcept;
};

/// The tensors of a variant in host memory: raw ones as they are stored, codes in the layout of the
/// kernels where that can hold them.
class CpuVariant final : public DeviceVariant {
 public:
  explicit CpuVariant(int n_slots);
  void set(int slot, const MatrixFormat& format, const HostTensor& blob, Stream& stream) override;
  int64_t resident_bytes() const noexcept override { return resident_bytes_; }
  /// Null for a slot that equals the base's.
  const VariantTensor* find(int slot) const noexcept;

 private:
  std::vector<std::unique_ptr<VariantTensor>> tensors_;
  RotationSigns signs_;
  int64_t resident_bytes_ = 0;
};

/// Rows of each variant of a batch.
class CpuVariantPlan final : public VariantPlan {
 public:
  struct Group {
    std::shared_ptr<const DeviceVariant> owner;
    const CpuVariant* variant = nullptr;  // null = base
    std::vector<int64_t> rows;

    const VariantTensor* find(int slot) const noexcept {
      return variant == nullptr ? nullptr : variant->find(slot);
    }
  };

  explicit CpuVariantPlan(std::span<const VariantSegment> segments);
  int64_t n_rows() const noexcept { return n_rows_; }
  std::span<const Group> groups() const noexcept { return groups_; }

 private:
  std::vector<Group> groups_;
  int64_t n_rows_ = 0;
};

inline const CpuVariantPlan& cpu_plan(const VariantPlan& plan) {
  return static_cast<const CpuVariantPlan&>(plan);
}

}  // namespace deltacome::cpu
