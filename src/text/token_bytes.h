// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/decoder.h"

namespace deltacome {

/// What decoding by `steps` makes of single tokens, before bytes that are no UTF-8 are replaced.
class TokenBytes {
 public:
  /// Throws kUnsupported for steps by which a token's bytes depend on those around it.
  explicit TokenBytes(const std::vector<DecoderStep>& steps);
  /// Of a token that is not the first of its text.
  std::string of(const std::string& token) const;
  /// A text loses the space that its first token begins with.
  bool drops_first_space() const noexcept { return drops_first_space_; }

 private:
  const std::vector<DecoderStep>& steps_;
  bool drops_first_space_ = false;
};

}  // namespace deltacome
