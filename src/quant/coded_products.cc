// SPDX-License-Identifier: Apache-2.0
#include "quant/coded_products.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "quant/vector_codes.h"

namespace deltacome {

float entry_levels(int dim) {
  static const std::map<int, float> levels = [] {
    std::map<int, float> all;
    for (const int d : kBookDimensions) {
      const std::span<const int8_t> book = code_book(d);
      int largest = 1;  // sum of magnitudes of an entry
      for (size_t first = 0; first < book.size(); first += static_cast<size_t>(d)) {
        int sum = 0;
        for (const int8_t element : book.subspan(first, static_cast<size_t>(d)))
          sum += std::abs(static_cast<int>(element));
        largest = std::max(largest, sum);
      }
      all[d] = std::min(kActivationLevels, static_cast<float>(INT16_MAX / largest));
    }
    return all;
  }();
  return levels.at(dim);
}

bool has_one_scale(const ArrayFormat& f) noexcept {
  return f.scale_rows == 0 && f.scale_cols == 0;
}

bool can_pack(const ArrayFormat& f) noexcept {
  const bool by_row = f.scale_rows == 1 && (f.scale_cols == 0 || f.scale_cols == kActivationGroup);
  return f.bits < 16 && (has_one_scale(f) || by_row);
}

bool can_pack_transposed(const ArrayFormat& f) noexcept {
  const bool by_output = f.scale_rows == kActivationGroup && f.scale_cols == 1;
  const bool by_component = f.scale_rows == 1 && f.scale_cols % kActivationGroup == 0;
  return f.bits < 16 && (has_one_scale(f) || by_output || by_component);
}

bool can_pack(const MatrixFormat& format) {
  if (format.codec == Codec::kDense) return can_pack(format.dense);
  return format.codec == Codec::kLowRank &&
         std::ranges::all_of(format.tiers, [](const TierFormat& tier) {
           return can_pack(tier.v) && can_pack_transposed(tier.u);
         });
}

}  // namespace deltacome
