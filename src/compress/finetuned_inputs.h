// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compress/layer_flow.h"
#include "model/model.h"

namespace deltacome {

/// Which input a projection of this kind takes, "q_proj" etc.
LayerInput input_of(const std::string& kind);

/// Second moments of the fine-tune's layer inputs over a text, C = X^T X / n_tokens f64, in the
/// order of the forward pass. Kept if all of them are small, else computed anew by every walk.
class FinetunedInputs {
 public:
  /// All three outlive it. `given`: rows that ids below 0 stand for.
  FinetunedInputs(const Model& finetuned, Stream& stream,
                  const std::vector<std::vector<int32_t>>& sequences, Tensor given = {});

  using Body = std::function<void(int64_t layer, LayerInput input, Tensor c)>;
  /// Calls body for all inputs of the layers that are wanted.
  void for_each(const std::function<bool(int64_t layer)>& wanted, const Body& body);

 private:
  const Model& finetuned_;
  Stream& stream_;
  const std::vector<std::vector<int32_t>>& sequences_;
  Tensor given_;
  bool keep_ = false;
  std::map<std::pair<int64_t, LayerInput>, Tensor> kept_;
};

}  // namespace deltacome
