// SPDX-License-Identifier: Apache-2.0
#include "model/given_rows.h"

#include <algorithm>

namespace deltacome {

std::vector<int32_t> lookup_ids(std::span<const int32_t> ids) {
  std::vector<int32_t> out(ids.begin(), ids.end());
  for (int32_t& id : out) id = std::max(id, 0);
  return out;
}

void put_given_rows(Backend& backend, Stream& stream, std::span<const int32_t> ids,
                    const Tensor& given, const Tensor& y) {
  const auto is_given = [](int32_t id) { return id < 0; };
  for (auto first = ids.begin();;) {
    first = std::find_if(first, ids.end(), is_given);
    if (first == ids.end()) return;
    const auto last = std::find_if_not(first, ids.end(), is_given);
    std::vector<int32_t> rows;
    for (auto id = first; id != last; ++id) rows.push_back(static_cast<int32_t>(given_row(*id)));
    backend.gather_rows(stream, given, rows, y.slice(first - ids.begin(), last - first));
    first = last;
  }
}

void embed_rows(Backend& backend, Stream& stream, const VariantPlan& plan, const Weight& table,
                std::span<const int32_t> ids, const Tensor& given, const Tensor& y) {
  if (given.empty()) return backend.embed(stream, plan, table.slot, ids, table.tensor, y);
  backend.embed(stream, plan, table.slot, lookup_ids(ids), table.tensor, y);
  put_given_rows(backend, stream, ids, given, y);
}

}  // namespace deltacome
