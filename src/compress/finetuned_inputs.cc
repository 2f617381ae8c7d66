// SPDX-License-Identifier: Apache-2.0
#include "compress/finetuned_inputs.h"

#include <array>
#include <memory>

#include "backend/compression_ops.h"
#include "compress/taught_text.h"

namespace deltacome {
namespace {

constexpr int64_t kKeptStatistics = int64_t{256} << 20;  // bytes in memory

constexpr std::array kInputs = {LayerInput::kQkv, LayerInput::kO, LayerInput::kGateUp,
                                LayerInput::kDown};

}  // namespace

LayerInput input_of(const std::string& kind) {
  if (kind == "o_proj") return LayerInput::kO;
  if (kind == "gate_proj" || kind == "up_proj") return LayerInput::kGateUp;
  if (kind == "down_proj") return LayerInput::kDown;
  return LayerInput::kQkv;
}

FinetunedInputs::FinetunedInputs(const Model& finetuned, Stream& stream,
                                 const std::vector<std::vector<int32_t>>& sequences, Tensor given)
    : finetuned_(finetuned), stream_(stream), sequences_(sequences), given_(std::move(given)) {
  const ModelConfig& c = finetuned.config();
  const int64_t mixed = c.n_heads * c.head_dim;
  const int64_t bytes = 8 * c.n_layers *
                        (2 * c.hidden_size * c.hidden_size + mixed * mixed +
                         c.intermediate_size * c.intermediate_size);
  keep_ = bytes <= kKeptStatistics;
}

void FinetunedInputs::for_each(const std::function<bool(int64_t)>& wanted, const Body& body) {
  const int64_t n_layers = finetuned_.config().n_layers;
  int64_t last = -1;
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    if (wanted(layer)) last = layer;
  }
  if (last < 0) return;
  std::unique_ptr<LayerFlow> flow;
  if (kept_.empty())
    flow = std::make_unique<LayerFlow>(finetuned_, stream_, nullptr, sequences_, given_);
  for (int64_t layer = 0; layer <= (keep_ && flow ? n_layers - 1 : last); ++layer) {
    const bool run = wanted(layer);
    for (const LayerInput input : kInputs) {
      if (!flow) {
        if (run) body(layer, input, kept_.at({layer, input}));
        continue;
      }
      if (!run && !keep_) continue;
      Tensor c = flow->statistics(layer, input);
      const std::vector<double> by(static_cast<size_t>(c.rows()),
                                   1 / static_cast<double>(count_tokens(sequences_)));
      finetuned_.backend().compression().scale(stream_, c, by, {});
      if (keep_) kept_[{layer, input}] = c;
      if (run) body(layer, input, std::move(c));
    }
    if (flow) flow->finish_layer(layer);
  }
}

}  // namespace deltacome
