// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/variant_plan.h"

#include <algorithm>

#include "backend/cuda/delta_call.h"
#include "core/check.h"

namespace deltacome::cuda {
namespace {

int segment_tokens_for(int64_t most_tokens) {  // of a variant
  if (most_tokens <= 1) return 1;
  return kMaxTokens * (most_tokens <= kMaxTokens ? 1 : most_tokens <= 2 * kMaxTokens ? 2 : 4);
}

/// Items that a list has room for: as before, or more than there are, so that a batch may change
/// without moving its tables.
int32_t room_for(size_t n_items, int32_t before) {
  const auto n = static_cast<int32_t>(n_items);
  return n <= before ? before : std::max(16, n + n / 2);
}

}  // namespace

CudaVariantPlan::CudaVariantPlan(const CudaContext& context,
                                 std::span<const VariantSegment> segments, CudaStream& stream)
    : context_(context) {
  assign(segments, stream);
}

int CudaVariantPlan::segment_tokens_of(std::span<const VariantSegment> segments) {
  std::map<const DeviceVariant*, int64_t> rows;
  int64_t most = 0;
  for (const VariantSegment& segment : segments) {
    if (segment.variant == nullptr) continue;
    most = std::max(most, rows[segment.variant.get()] += segment.n_rows);
  }
  return segment_tokens_for(most);
}

void CudaVariantPlan::assign(std::span<const VariantSegment> segments, CudaStream& stream) {
  const auto equal = [](const VariantSegment& a, const Assigned& b) {
    return a.n_rows == b.n_rows && (a.variant == nullptr) == b.base &&
           a.variant == b.variant.lock();
  };
  if (assigned_ > 0 && std::ranges::equal(segments, segments_, equal)) return;
  segments_.clear();
  for (const VariantSegment& s : segments)
    segments_.push_back({s.variant, s.variant == nullptr, s.n_rows});
  struct Member {
    Group group;
    std::vector<int32_t> rows;
  };
  std::vector<Member> members;
  n_rows_ = 0;
  for (const VariantSegment& segment : segments) {
    DELTACOME_CHECK(segment.n_rows >= 0);
    if (segment.n_rows == 0) continue;
    const auto* variant = static_cast<const CudaVariant*>(segment.variant.get());
    auto member =
        std::ranges::find(members, variant, [](const Member& m) { return m.group.variant; });
    if (member == members.end()) {
      members.push_back({{.owner = segment.variant, .variant = variant}, {}});
      member = members.end() - 1;
    }
    for (int64_t i = 0; i < segment.n_rows; ++i)
      member->rows.push_back(static_cast<int32_t>(n_rows_++));
  }
  groups_.clear();
  order_.clear();
  group_of_.assign(static_cast<size_t>(n_rows_), 0);
  int64_t most = 0;  // rows of a variant
  for (Member& member : members) {
    member.group.first = static_cast<int64_t>(order_.size());
    member.group.n_rows = static_cast<int64_t>(member.rows.size());
    order_.insert(order_.end(), member.rows.begin(), member.rows.end());
    for (const int32_t row : member.rows)
      group_of_[static_cast<size_t>(row)] = static_cast<int32_t>(groups_.size());
    member.group.decode_rows = context_.deterministic ? DecodeRows::never() : context_.decode_rows;
    if (member.group.variant != nullptr &&
        !all_decoded(member.group.n_rows, member.group.decode_rows))
      most = std::max(most, member.group.n_rows);
    groups_.push_back(std::move(member.group));
  }
  const int tokens = segment_tokens_for(most);
  moved(assigned_ > 0 && tokens != segment_tokens_);
  if (!has_deltas_ && std::ranges::any_of(groups_, [](const Group& g) { return g.variant; })) {
    moved(assigned_ > 0);  // the ops of a base alone leave deltas out
    has_deltas_ = true;
  }
  segment_tokens_ = tokens;
  ++assigned_;
  z_cleared_ = false;
  write_rows(stream);
}

void CudaVariantPlan::disown() {
  for (Group& group : groups_) group.owner.reset();
}

void CudaVariantPlan::write_rows(CudaStream& stream) {
  moved(rows_.reserve(context_, n_rows_ * 4));
  stream.upload(std::as_bytes(std::span(order_)), rows_.data());
  std::vector<int> slots = raw_slots_;  // once there, they stay: graphs go on reading them
  for (const Group& group : groups_) {
    for (int slot = 0; group.variant != nullptr && slot < group.variant->n_slots(); ++slot) {
      const CudaTensor* tensor = group.variant->find(slot);
      if (tensor != nullptr && tensor->values != nullptr) slots.push_back(slot);
    }
  }
  std::ranges::sort(slots);
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  std::vector<OwnVector> own(slots.size() * static_cast<size_t>(n_rows_));
  for (const Group& group : groups_) {
    for (size_t i = 0; i < slots.size(); ++i) {
      const CudaTensor* tensor = group.find(slots[i]);
      if (tensor == nullptr || tensor->values == nullptr) continue;
      for (int64_t r = group.first; r < group.first + group.n_rows; ++r) {
        const auto row = static_cast<size_t>(order_[static_cast<size_t>(r)]);
        own[i * static_cast<size_t>(n_rows_) + row] = {tensor->values, tensor->format.shape[0]};
      }
    }
  }
  moved(assigned_ > 1 && slots != raw_slots_);
  raw_slots_ = std::move(slots);
  moved(raw_.reserve(context_, static_cast<int64_t>(sizeof(OwnVector) * own.size())));
  stream.upload(std::as_bytes(std::span(own)), raw_.data());
}

const OwnVector* CudaVariantPlan::raw_rows(int slot) const noexcept {
  const auto found = std::ranges::lower_bound(raw_slots_, slot);
  if (found == raw_slots_.end() || *found != slot) return nullptr;
  return reinterpret_cast<const OwnVector*>(raw_.data()) + (found - raw_slots_.begin()) * n_rows_;
}

void CudaVariantPlan::update(const std::vector<int>& slots, Known& known,
                             CudaStream& stream) const {
  CallContents contents = contents_of(groups_, order_, segment_tokens_, slots, known.n_in);
  DELTACOME_CHECK(contents.n_z <= INT32_MAX);
  TableBytes bytes;
  DeltaCall call;
  call.tier_items = bytes.append(std::span<const int32_t>(contents.tier_items));
  const auto for_lists = [&](const auto& body) {
    body(contents.inputs, known.call.table.inputs, call.inputs);
    body(contents.vector_inputs, known.call.table.vector_inputs, call.vector_inputs);
    body(contents.shrink, known.call.table.shrink, call.shrink);
    body(contents.vectors, known.call.table.vectors, call.vectors);
    body(contents.components, known.call.table.components, call.components);
    body(contents.expand, known.call.table.expand, call.expand);
    body(contents.plain, known.call.table.plain, call.plain);
    body(contents.plain_expand, known.call.table.plain_expand, call.plain_expand);
  };
  bool grown = false;
  for_lists([&](const auto& list, const auto& before, auto& now) {
    const int32_t capacity = room_for(list.items.size(), before.capacity);
    grown = grown || capacity != before.capacity;
    bytes.append(list, capacity, now);
  });
  const bool table_moved =
      known.table.reserve(context_, static_cast<int64_t>(bytes.bytes().size()));
  moved(table_moved || (known.assigned > 0 && grown));
  std::byte* base = known.table.data();
  TableBytes::move_to(base, call.tier_items);
  for_lists([&](const auto&, const auto&, auto& now) { TableBytes::move_to(base, now); });
  stream.upload(bytes.bytes(), base);
  // Kernels that were launched once are launched from then on: a captured graph has them.
  const unsigned kinds = known.call.kinds | contents.kinds();
  moved(known.assigned > 0 && kinds != known.call.kinds);
  known.prompts = std::move(contents.prompts);
  known.call = {call, kinds, contents.n_inputs, contents.n_scales, contents.n_z, known.prompts};
  known.assigned = assigned_;
}

CudaVariantPlan::Call CudaVariantPlan::call(std::span<const int> slots, int64_t n_in,
                                            CudaStream& stream) const {
  const std::vector<int> key(slots.begin(), slots.end());
  Known& known = calls_[key];
  DELTACOME_CHECK(known.assigned == 0 || known.n_in == n_in);
  known.n_in = n_in;
  if (known.assigned != assigned_) update(key, known, stream);
  return known.call;
}

void CudaVariantPlan::reserve(const Call& call) const {
  moved(inputs_.reserve(context_, call.n_inputs));
  moved(scales_.reserve(context_, call.n_scales * 8));
  const int64_t padded = (call.n_z + 63) / 64 * 64;
  if (padded <= z_floats_) return;
  z_floats_ = (padded + padded / 2 + 1023) / 1024 * 1024;           // with room for other mixes
  moved(z_.reserve(context_, 2 * 4 * z_floats_) || assigned_ > 1);  // the second one has moved
  z_cleared_ = false;
}

DeltaBuffers CudaVariantPlan::buffers(const Call& call, CudaStream& stream) const {
  reserve(call);
  DeltaBuffers buffers;
  buffers.inputs = reinterpret_cast<int8_t*>(inputs_.data());
  buffers.input_scales = reinterpret_cast<float*>(scales_.data());
  buffers.rows = rows();
  if (call.n_z == 0) return buffers;
  auto* z = reinterpret_cast<float*>(z_.data());
  if (!z_cleared_) {
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(z, 0, static_cast<size_t>(2 * 4 * z_floats_), stream.get()));
    z_cleared_ = true;
    z_turn_ = false;
  }
  buffers.z = z + (z_turn_ ? z_floats_ : 0);
  buffers.next_z = z + (z_turn_ ? 0 : z_floats_);
  buffers.n_next_z = static_cast<int32_t>(z_floats_);
  z_turn_ = !z_turn_;
  return buffers;
}

void CudaVariantPlan::refresh(CudaStream& stream) const {
  for (auto& [slots, known] : calls_) {
    if (known.assigned != assigned_) update(slots, known, stream);
    reserve(known.call);
  }
  for (auto& [slot, known] : embeddings_) embedding(slot, stream);
  z_cleared_ = false;  // what is captured now clears it
}

const WorkList<EmbeddingSegment>* CudaVariantPlan::embedding(int slot, CudaStream& stream) const {
  KnownEmbedding& known = embeddings_[slot];
  if (known.assigned != assigned_) {
    HostList<EmbeddingSegment> list;
    for (const Group& group : groups_) {
      const CudaTensor* t = group.find(slot);
      if (t == nullptr) continue;
      EmbeddingSegment s;
      s.first_token = static_cast<int32_t>(group.first);
      s.n_tokens = static_cast<int32_t>(group.n_rows);
      if (t->format.codec == Codec::kRaw) {
        s.whole = t->raw;
      } else if (t->format.codec == Codec::kDense) {
        s.first_whole = t->format.base_rows;
        s.whole = t->added;
        s.plain = t->plain;
        s.codes = t->matrix.codes;
        s.scales = t->matrix.scales;
        s.row_factor = t->matrix.row_factor;
        s.tiles = static_cast<int32_t>((t->matrix.cols + kTileCols - 1) / kTileCols);
        s.groups = static_cast<int32_t>((t->matrix.cols + kGroupCols - 1) / kGroupCols);
        s.bits = t->matrix.bits;
        s.center = t->matrix.center;
        s.factor = t->matrix.factor;
      } else {
        fail(ErrorCode::kUnsupported, "{} deltas of embeddings; expected raw or dense",
             codec_name(t->format.codec));
      }
      list.add(s, group.n_rows);
    }
    TableBytes bytes;
    const int32_t capacity = room_for(list.items.size(), known.list.capacity);
    const bool grown = capacity != known.list.capacity;
    bytes.append(list, capacity, known.list);
    const bool table_moved =
        known.table.reserve(context_, static_cast<int64_t>(bytes.bytes().size()));
    moved(table_moved || (known.assigned > 0 && grown));
    TableBytes::move_to(known.table.data(), known.list);
    stream.upload(bytes.bytes(), known.table.data());
    moved(known.assigned > 0 && known.empty && !list.items.empty());
    known.empty = known.empty && list.items.empty();
    known.assigned = assigned_;
  }
  if (known.empty) return nullptr;
  return &known.list;
}

int64_t CudaVariantPlan::n_ids(int slot, int64_t row, int64_t n_base) const {
  const auto group = static_cast<size_t>(group_of_[static_cast<size_t>(row)]);
  const CudaTensor* t = groups_[group].find(slot);
  return t == nullptr ? n_base : t->format.n_out();
}

}  // namespace deltacome::cuda
