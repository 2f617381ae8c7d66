// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/variant.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

/// The blob itself, or a copy if nobody keeps its bytes alive.
HostTensor keep(const HostTensor& blob) {
  if (blob.owner != nullptr) return blob;
  return HostTensor::of(blob.dtype, blob.shape,
                        std::vector<std::byte>(blob.bytes.begin(), blob.bytes.end()));
}

/// factors[i], times what the rows have already.
void scale_rows(PackedRows& rows, std::span<const float> factors) {
  if (factors.empty()) return;
  std::vector<float> scaled(factors.begin(), factors.end());
  for (size_t i = 0; i < rows.row_scale.size(); ++i) scaled[i] *= rows.row_scale[i];
  rows.row_scale = std::move(scaled);
}

/// Codes and factors of a tensor that the kernels have a layout for. Of the blob only the added
/// rows stay.
void repack(VariantTensor& t, const BlobLayout& layout, const HostTensor& blob) {
  const MatrixFormat& f = t.format;
  t.packed = f.codec != Codec::kVector;
  if (f.codec == Codec::kVector) t.vector = VectorRows(f, layout, blob.bytes.data());
  if (f.codec == Codec::kDense)
    t.packed_dense = PackedRows::of(f.dense, f.base_rows, f.n_in(), layout.dense, blob.bytes);
  const std::vector<float> row_gain = decode_gains(blob.bytes, layout.row_gain);
  int64_t first = 0;
  for (size_t i = 0; i < f.tiers.size(); ++i) {
    const TierFormat& tier = f.tiers[i];
    VariantTensor::Tier& to = t.tiers.emplace_back();
    to.first = first;
    to.rank = tier.rank;
    to.packed_v = PackedRows::of(tier.v, tier.rank, f.n_in(), layout.tiers[i].v, blob.bytes);
    to.packed_u =
        PackedRows::transpose_of(tier.u, tier.rank, f.base_rows, layout.tiers[i].u, blob.bytes);
    scale_rows(to.packed_v,
               std::span(t.s).subspan(static_cast<size_t>(first), static_cast<size_t>(tier.rank)));
    scale_rows(to.packed_u, row_gain);
    first += tier.rank;
  }
  const auto added = blob.bytes.subspan(static_cast<size_t>(layout.added.offset),
                                        static_cast<size_t>(layout.added.bytes));
  t.blob = HostTensor::of(DType::kU8, {layout.added.bytes},
                          std::vector<std::byte>(added.begin(), added.end()));
}

std::unique_ptr<VariantTensor> make_tensor(const MatrixFormat& format, const HostTensor& blob) {
  auto tensor = std::make_unique<VariantTensor>();
  VariantTensor& t = *tensor;
  const BlobLayout layout = layout_of(format);
  DELTACOME_CHECK(static_cast<int64_t>(blob.bytes.size()) == layout.total_bytes);
  t.format = format;
  if (format.codec == Codec::kLowRank) {
    t.s.resize(static_cast<size_t>(format.rank()));
    convert_to_float(blob.bytes.data() + layout.s.offset, DType::kBf16, t.s);
  }
  t.col_gain = decode_gains(blob.bytes, layout.col_gain);
  if (can_pack(format) || format.codec == Codec::kVector) {
    repack(t, layout, blob);
    t.added = {t.blob.bytes.data(), format.raw_dtype, format.added_rows(), format.n_in()};
    return tensor;
  }
  t.blob = keep(blob);
  const std::byte* data = t.blob.bytes.data();
  switch (format.codec) {
    case Codec::kRaw:
      t.raw = {data + layout.raw.offset, format.raw_dtype, format.n_out(), format.n_in()};
      if (format.shape.size() == 1) {
        t.values.resize(static_cast<size_t>(format.n_out()));
        convert_to_float(t.raw.data, format.raw_dtype, t.values);
      }
      break;
    case Codec::kDense:
      t.dense = CodedRows(format.dense, format.base_rows, format.n_in(), layout.dense, data);
      break;
    case Codec::kLowRank: {
      int64_t first = 0;
      for (size_t i = 0; i < format.tiers.size(); ++i) {
        const TierFormat& tier = format.tiers[i];
        const TierLayout& at = layout.tiers[i];
        t.tiers.push_back({.v = CodedRows(tier.v, tier.rank, format.n_in(), at.v, data),
                           .u = CodedRows(tier.u, tier.rank, format.base_rows, at.u, data),
                           .packed_v = {},
                           .packed_u = {},
                           .first = first,
                           .rank = tier.rank});
        first += tier.rank;
      }
      break;
    }
    case Codec::kVector:
      DELTACOME_CHECK(false);  // repacked
  }
  t.row_gain = decode_gains(t.blob.bytes, layout.row_gain);
  t.added = {data + layout.added.offset, format.raw_dtype, format.added_rows(), format.n_in()};
  return tensor;
}

}  // namespace

int64_t VariantTensor::own_bytes() const noexcept {
  const size_t floats = values.size() + s.size() + row_gain.size() + col_gain.size();
  int64_t packed_bytes = packed_dense.bytes() + vector.bytes();
  for (const Tier& tier : tiers) packed_bytes += tier.packed_v.bytes() + tier.packed_u.bytes();
  return static_cast<int64_t>(blob.bytes.size() + sizeof(float) * floats) + packed_bytes;
}

CpuVariant::CpuVariant(int n_slots) : tensors_(static_cast<size_t>(n_slots)) {}

void CpuVariant::set(int slot, const MatrixFormat& format, const HostTensor& blob, Stream&) {
  DELTACOME_CHECK(slot >= 0 && static_cast<size_t>(slot) < tensors_.size());
  std::unique_ptr<VariantTensor>& place = tensors_[static_cast<size_t>(slot)];
  std::unique_ptr<VariantTensor> tensor = make_tensor(format, blob);
  if (format.codec == Codec::kVector) {
    auto& signs = signs_[{format.vector.seed, format.n_in()}];
    if (signs == nullptr) {
      signs = std::make_shared<const std::vector<float>>(
          rotation_signs(format.vector.seed, format.n_in()));
      resident_bytes_ += static_cast<int64_t>(sizeof(float) * signs->size());
    }
    tensor->signs = signs;
  }
  if (place != nullptr) resident_bytes_ -= place->own_bytes();
  resident_bytes_ += tensor->own_bytes();
  place = std::move(tensor);
}

const VariantTensor* CpuVariant::find(int slot) const noexcept {
  if (slot < 0 || static_cast<size_t>(slot) >= tensors_.size()) return nullptr;
  return tensors_[static_cast<size_t>(slot)].get();
}

CpuVariantPlan::CpuVariantPlan(std::span<const VariantSegment> segments) {
  for (const VariantSegment& segment : segments) {
    DELTACOME_CHECK(segment.n_rows >= 0);
    if (segment.n_rows == 0) continue;
    const auto* variant = static_cast<const CpuVariant*>(segment.variant.get());
    auto group = std::ranges::find(groups_, variant, &Group::variant);
    if (group == groups_.end()) {
      groups_.push_back({.owner = segment.variant, .variant = variant, .rows = {}});
      group = groups_.end() - 1;
    }
    const size_t had = group->rows.size();
    group->rows.resize(had + static_cast<size_t>(segment.n_rows));
    std::iota(group->rows.begin() + static_cast<std::ptrdiff_t>(had), group->rows.end(), n_rows_);
    n_rows_ += segment.n_rows;
  }
}

}  // namespace deltacome::cpu
