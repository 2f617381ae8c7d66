// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_call.h"

#include <algorithm>
#include <numeric>

#include "backend/cuda/delta_pack.h"
#include "core/check.h"
#include "quant/coded_products.h"

namespace deltacome::cuda {
namespace {

using Group = CudaVariantPlan::Group;

int32_t to_int(int64_t n) {
  DELTACOME_CHECK(n >= 0 && n <= INT32_MAX);
  return static_cast<int32_t>(n);
}

/// A form of the inputs of one group.
struct Form {
  const CudaTensor* of = nullptr;
  int dim = 0;  // of vector codes; 0: tiles
  int64_t in = 0, scales = 0;
  int64_t stride = 0, groups = 0;

  bool suits(const CudaTensor& other, int other_dim) const {
    if (dim != other_dim || of->col_gain_values != other.col_gain_values) return false;
    return dim == 0 || (of->format.vector.seed == other.format.vector.seed &&
                        of->format.vector.block == other.format.vector.block);
  }
};

static_assert(kTierLaunches == kMaxTiers && kGroupCols == kActivationGroup &&
              kVectorCodes == kEntryGroup);

template <class Segment>
void sort_by(HostList<Segment>& list, int32_t DeltaSegment::*key) {
  std::ranges::stable_sort(list.items, {}, [&](const DeltaSegment& s) { return s.*key; });
  for (size_t i = 0; i < list.items.size(); ++i) {
    const DeltaSegment& s = list.items[i];
    list.starts[i + 1] = list.starts[i] + to_int(blocks_of(s.rows, s.bits) * s.groups);
  }
}

class Builder {
 public:
  Builder(std::span<const int32_t> order, int segment_tokens, int64_t n_in)
      : order_(order), tokens_(segment_tokens), n_in_(n_in) {}

  void add(const Group& group, int target, const CudaTensor& t) {
    DELTACOME_CHECK(t.format.n_in() == n_in_);
    if (is_decoded(t, group.n_rows, group.decode_rows)) {
      if (group.first != prompt_) {
        out_.prompts.push_back({.first = group.first, .n_rows = group.n_rows, .members = {}});
        prompt_ = group.first;
      }
      out_.prompts.back().members.push_back({target, &t});
      return add_rows(group, target, t.added, t.format.base_rows, true, t);
    }
    switch (t.format.codec) {
      case Codec::kRaw:
        return add_rows(group, target, t.raw, 0, true, t);
      case Codec::kDense:
        if (t.packed) {
          add_packed(group, target, t.matrix, form_of(group, t, 0), out_.shrink);
        } else {
          add_rows(group, target, t.plain, 0, false, t);
        }
        break;
      case Codec::kLowRank:
        t.packed ? add_tiers(group, target, t) : add_plain_tiers(group, target, t);
        break;
      case Codec::kVector:
        add_packed(group, target, t.matrix, form_of(group, t, t.format.vector.dim), out_.vectors,
                   t.format.vector.dim);
        break;
    }
    add_rows(group, target, t.added, t.format.base_rows, true, t);
  }
  void end_group() { forms_.clear(); }
  CallContents take() { return std::move(out_); }

 private:
  /// The inputs of a group as `t` multiplies them.
  Form form_of(const Group& group, const CudaTensor& t, int dim) {
    for (const Form& form : forms_) {
      if (form.suits(t, dim)) return form;
    }
    const int64_t width = dim == 0 ? kGroupCols : kVectorCodes * dim;
    Form form{.of = &t, .dim = dim, .in = out_.n_inputs, .scales = out_.n_scales};
    form.stride = ceil_to(n_in_, width);
    form.groups = form.stride / width;
    InputJob job;
    job.gains = t.col_gain;
    job.cols = to_int(n_in_);
    job.padded = to_int(form.stride);
    job.group = to_int(width);
    job.levels = dim == 0 ? kActivationLevels : entry_levels(dim);
    int64_t unit = width;
    if (dim != 0) {
      job.seed = t.format.vector.seed;
      job.block = to_int(t.format.vector.block);
      unit = std::lcm(width, t.format.vector.block);
    }
    job.chunk = to_int(unit >= 1024 ? unit : 1024 / unit * unit);
    for (int64_t i = 0; i < group.n_rows; ++i) {
      job.row = order_[static_cast<size_t>(group.first + i)];
      job.out = form.in + i * form.stride;
      job.scales = form.scales + i * form.groups;
      (dim == 0 ? out_.inputs : out_.vector_inputs).add(job, 1);
    }
    out_.n_inputs += group.n_rows * form.stride;
    out_.n_scales += group.n_rows * form.groups;
    forms_.push_back(form);
    return form;
  }

  /// For each launch's worth of tokens of the group: segment `s`, whose pointers are of the first.
  template <class Segment>
  void add_by_tokens(const Group& group, const Segment& s, HostList<Segment>& list) const {
    const int64_t units = blocks_of(s.rows, s.bits) * s.groups;
    for (int64_t t = 0; t < group.n_rows; t += tokens_) {
      Segment part = s;
      part.first_token = to_int(group.first + t);
      part.first_row = order_[static_cast<size_t>(part.first_token)];
      part.n_tokens = to_int(std::min(tokens_, group.n_rows - t));
      part.z += t * s.z_stride;
      for (SegmentPart& p : part.parts) {
        p.in += t * p.in_stride;
        p.in_scales += t * p.scale_stride;
      }
      list.add(part, units);
    }
  }

  /// Of prepared inputs. target -1: to z from `out` on.
  void add_packed(const Group& group, int target, const PackedMatrix& m, const Form& form,
                  HostList<InputSegment>& list, int dim = 0, int64_t out = 0,
                  int64_t out_stride = 0) const {
    InputSegment s;
    start_segment(m, target, s);
    s.z = out;
    s.z_stride = to_int(out_stride);
    s.dim = dim;
    SegmentPart& part = s.parts[0];
    part = part_of(m);
    part.gains = form.of->col_gain;  // for those that read x itself
    part.in = form.in;
    part.in_stride = to_int(form.stride);
    part.in_scales = form.scales;
    part.scale_stride = to_int(form.groups);
    if (dim != 0) {
      s.groups = part.groups = to_int(form.groups);
      s.stride = part.tiles = kGroupTiles * s.groups;
    }
    add_by_tokens(group, s, list);
  }

  void add_tiers(const Group& group, int target, const CudaTensor& t) {
    int64_t stride = 0;  // z of a token: tiers one after another, each in whole tiles
    for (const auto& tier : t.tiers) stride += ceil_to(tier.rank, kTileCols);
    const int64_t z = out_.n_z;
    out_.n_z += group.n_rows * stride;
    ComponentSegment shared;  // of the tiers whose row blocks lie together
    shared.n_parts = 0;
    int64_t at = 0;  // of the tier's components
    for (const auto& tier : t.tiers) {
      add_packed(group, -1, tier.v, form_of(group, t, 0), out_.shrink, 0, z + at, stride);
      const bool lies_together = tier.u.bits == 2 || tier.u.together > 1;
      if (tier.u.rows > 0 && tier.rank > 0) {
        ComponentSegment own;
        ComponentSegment& s = lies_together ? shared : own;
        if (!lies_together || shared.n_parts == 0) {
          start_segment(tier.u, target, s);
          s.n_parts = 0;
          s.z = z;
          s.z_stride = to_int(stride);
          s.tier = static_cast<int>(&tier - t.tiers.data());
          s.groups = 0;
          if (lies_together) {
            s.bits = 2;
            s.n_blocks = to_int(blocks_of(tier.u.rows, 2));
          }
        }
        add_part(group, tier.u, z, at, s);
        if (!lies_together) add_by_tokens(group, own, out_.expand);
        if (shared.n_parts == kMaxParts) {
          add_by_tokens(group, shared, out_.expand);
          shared.n_parts = 0;
        }
      }
      at += ceil_to(tier.rank, kTileCols);
    }
    if (shared.n_parts > 0) add_by_tokens(group, shared, out_.expand);
  }

  /// U of one tier, whose components begin at z + first, and its prepared inputs.
  void add_part(const Group& group, const PackedMatrix& u, int64_t z, int64_t first,
                ComponentSegment& s) {
    const int64_t tiles = tiles_of(u.cols), groups = groups_of(u.cols), n = group.n_rows;
    const int64_t blocks = u.gains == nullptr ? 1 : (u.rows + u.gain_rows - 1) / u.gain_rows;
    SegmentPart& part = s.parts[s.n_parts++];
    part = part_of(u);
    s.groups += part.groups;
    part.z = to_int(first);
    part.cols = to_int(tiles * kTileCols);
    part.in = out_.n_inputs;
    part.in_stride = to_int(groups * kGroupCols);
    part.in_block = n * part.in_stride;
    part.in_scales = out_.n_scales;
    part.scale_stride = to_int(groups);
    part.scales_block = n * groups;
    ComponentJob job;
    job.gains = u.gains;
    job.z = z + first;
    job.z_stride = s.z_stride;
    job.out = part.in;
    job.scales = part.in_scales;
    job.n_tokens = to_int(n);
    job.gain_blocks = to_int(blocks);
    job.tiles = to_int(tiles);
    job.groups = to_int(groups);
    out_.components.add(job, blocks * n * groups);
    out_.n_inputs += blocks * part.in_block;
    out_.n_scales += blocks * part.scales_block;
  }

  void add_plain_tiers(const Group& group, int target, const CudaTensor& t) {
    const int64_t rank = t.format.rank();
    int64_t first = 0;
    for (const auto& tier : t.tiers) {
      PlainSegment v = plain_of(group, -1, tier.plain_v);
      v.factor = t.s + first;
      v.gains = t.col_gain;
      v.out = out_.n_z + first;
      v.out_stride = to_int(rank);
      out_.plain.add(v, tier.rank);
      PlainSegment u = plain_of(group, target, tier.plain_u);
      u.factor = t.row_gain;
      u.tier = static_cast<int32_t>(&tier - t.tiers.data());
      u.in = v.out;
      u.in_stride = to_int(rank);
      out_.plain_expand.add(u, (t.format.base_rows + 31) / 32);
      first += tier.rank;
    }
    out_.n_z = ceil_to(out_.n_z + group.n_rows * rank, 4);
  }

  /// y = or += rows of `array` times x.
  void add_rows(const Group& group, int target, const PlainArray& array, int64_t first_out,
                bool assigns, const CudaTensor& t) {
    PlainSegment s = plain_of(group, target, array);
    s.first_out = to_int(first_out);
    s.assigns = assigns ? 1 : 0;
    if (!assigns) s.gains = t.col_gain;
    out_.plain.add(s, array.rows);
  }

  static PlainSegment plain_of(const Group& group, int target, const PlainArray& array) {
    PlainSegment s;
    s.array = array;
    s.target = target;
    s.first_token = to_int(group.first);
    s.n_tokens = to_int(group.n_rows);
    return s;
  }

  std::span<const int32_t> order_;
  int64_t tokens_;  // of a segment
  int64_t n_in_;
  int64_t prompt_ = -1;  // first row of the last of out_.prompts
  std::vector<Form> forms_;
  CallContents out_;
};

}  // namespace

void start_segment(const PackedMatrix& m, int target, DeltaSegment& s) {
  s.codes = m.codes;
  s.row_factor = m.row_factor;
  s.book = m.book;
  s.target = target;
  s.rows = to_int(m.rows);
  s.stride = to_int(m.stride);
  s.groups = to_int(groups_of(m.cols));
  s.bits = m.bits;
  s.n_blocks = to_int(blocks_of(m.rows, m.bits));
}

SegmentPart part_of(const PackedMatrix& m) {
  SegmentPart part;
  part.scales = m.scales;
  part.cols = to_int(m.cols);
  part.tiles = to_int(tiles_of(m.cols) * m.together);
  part.groups = to_int(groups_of(m.cols));
  part.bits = m.bits;
  part.gains = m.gains;
  if (m.gains != nullptr) part.gain_rows = to_int(m.gain_rows);
  part.center = m.center;
  part.factor = m.factor;
  return part;
}

unsigned CallContents::kinds() const {
  using Plan = CudaVariantPlan;
  unsigned kinds = 0;
  if (!inputs.items.empty()) kinds |= Plan::kInputs;
  if (!vector_inputs.items.empty()) kinds |= Plan::kVectorInputs;
  if (!shrink.items.empty()) kinds |= Plan::kShrink;
  if (std::ranges::any_of(shrink.items, [](const DeltaSegment& s) { return s.target >= 0; }))
    kinds |= Plan::kDense;
  if (!vectors.items.empty()) kinds |= Plan::kVectors;
  if (!expand.items.empty()) kinds |= Plan::kExpand;
  if (!plain.items.empty()) kinds |= Plan::kPlain;
  if (!plain_expand.items.empty()) kinds |= Plan::kPlainExpand;
  return kinds;
}

CallContents contents_of(std::span<const Group> groups, std::span<const int32_t> order,
                         int segment_tokens, std::span<const int> slots, int64_t n_in) {
  Builder builder(order, segment_tokens, n_in);
  for (const Group& group : groups) {
    for (size_t i = 0; i < slots.size(); ++i) {
      const CudaTensor* tensor = group.find(slots[i]);
      if (tensor != nullptr) builder.add(group, static_cast<int>(i), *tensor);
    }
    builder.end_group();
  }
  CallContents contents = builder.take();
  // Segments with one book next to each other: a block of threads holds one.
  sort_by(contents.vectors, &DeltaSegment::dim);
  sort_by(contents.expand, &DeltaSegment::tier);
  for (int tier = 0; tier <= kTierLaunches; ++tier) {
    contents.tier_items[tier] =
        to_int(std::ranges::lower_bound(contents.expand.items, tier, {}, &DeltaSegment::tier) -
               contents.expand.items.begin());
  }
  return contents;
}

}  // namespace deltacome::cuda
