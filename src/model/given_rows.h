// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/weights.h"

namespace deltacome {

// Embeddings that come from elsewhere, as of a picture, stand in sequences as ids below 0: given_id
// (i) is row i of a table "given" [n, hidden_size] f32 that goes with the sequence.

inline int32_t given_id(int64_t row) {
  return static_cast<int32_t>(-1 - row);
}
inline int64_t given_row(int32_t id) {
  return -1 - static_cast<int64_t>(id);
}

/// ids with any token in the places of given rows: what Backend::embed() takes.
std::vector<int32_t> lookup_ids(std::span<const int32_t> ids);

/// y[i] = row given_row(ids[i]) of `given` where ids[i] is below 0. y [n, hidden] f32.
void put_given_rows(Backend& backend, Stream& stream, std::span<const int32_t> ids,
                    const Tensor& given, const Tensor& y);

/// y[i] = the embedding of ids[i] for its row's variant, or the given row. Throws as
/// Backend::embed().
void embed_rows(Backend& backend, Stream& stream, const VariantPlan& plan, const Weight& table,
                std::span<const int32_t> ids, const Tensor& given, const Tensor& y);

}  // namespace deltacome
