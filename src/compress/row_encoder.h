// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "compress/checkpoints.h"
#include "io/text_rows.h"
#include "model/pictures.h"
#include "text/tokenizer.h"

namespace deltacome {

/// Turns rows of files into tokens, a row's picture into given rows (model/given_rows.h) of one
/// table for all of them; equal pictures share theirs. Copies share the table.
class RowEncoder {
 public:
  /// For rows without pictures; one that has any is refused with kInvalidArgument.
  RowEncoder(const Tokenizer& tokenizer);  // NOLINT: a tokenizer is all that most rows need
  /// For the fine-tune's pictures too. All but the directory's files outlive it.
  RowEncoder(const Tokenizer& tokenizer, const CheckpointPair& pair, Backend& backend,
             Stream& stream);

  /// Tokens of a row's text, without BOS and EOS. `directory`: where paths of pictures begin.
  std::vector<TokenId> encode(const TextRow& row, const std::filesystem::path& directory) const;

  /// [n, hidden_size] f32: the rows that ids below 0 stand for, so far; empty without any.
  Tensor given() const;

 private:
  struct Table;
  const Tokenizer* tokenizer_;
  std::shared_ptr<Table> table_;  // null: no pictures
};

}  // namespace deltacome
