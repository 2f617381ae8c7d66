// SPDX-License-Identifier: Apache-2.0
#include "compress/layer_flow.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"
#include "model/given_rows.h"

namespace deltacome {
namespace {

constexpr int64_t kChunkTokens = 4096;  // rows that go through a layer at a time

}  // namespace

LayerFlow::LayerFlow(const Model& model, Stream& stream,
                     std::shared_ptr<const DeviceVariant> variant,
                     std::vector<std::vector<TokenId>> sequences, const Tensor& given)
    : model_(model), stream_(stream) {
  Backend& backend = model.backend();
  const ModelConfig& config = model.config();
  std::vector<int32_t> ids;
  std::vector<std::vector<int64_t>> lengths{{}};  // of the sequences of each chunk
  int64_t in_chunk = 0;
  for (const std::vector<TokenId>& sequence : sequences) {
    const auto n = static_cast<int64_t>(sequence.size());
    if (in_chunk > 0 && in_chunk + n > kChunkTokens) {
      lengths.emplace_back();
      in_chunk = 0;
    }
    lengths.back().push_back(n);
    in_chunk += n;
    ids.insert(ids.end(), sequence.begin(), sequence.end());
  }

  for (const std::vector<int64_t>& chunk : lengths) {
    int64_t rows = 0, blocks = 0;
    for (const int64_t n : chunk) {
      rows += n;
      blocks += KvCache::blocks_for(n);
    }
    chunk_rows_ = std::max(chunk_rows_, rows);
    chunk_blocks_ = std::max(chunk_blocks_, blocks);
  }
  KvCache cache(backend, config, 1, chunk_blocks_);  // for its block tables; memory is not touched
  hidden_ = backend.allocate(DType::kF32, {static_cast<int64_t>(ids.size()), config.hidden_size});

  int64_t first = 0;
  for (const std::vector<int64_t>& chunk : lengths) {
    Chunk out;
    std::vector<Sequence> scratch;  // every chunk uses the same blocks
    std::vector<SequenceChunk> parts;
    out.first_row = first;
    for (const int64_t n : chunk) {
      cache.reserve(scratch.emplace_back(), n);
      out.n_rows += n;
    }
    for (size_t i = 0; i < chunk.size(); ++i) parts.push_back({chunk[i], 0, scratch[i].blocks});
    out.attention = backend.plan_attention(parts);
    const VariantSegment segment{variant, out.n_rows};
    out.variants = backend.plan_variants({&segment, 1});
    for (Sequence& sequence : scratch) cache.release(sequence);
    embed_rows(backend, stream, *out.variants, model.weights().embedding,
               std::span(ids).subspan(static_cast<size_t>(first), static_cast<size_t>(out.n_rows)),
               given, hidden_.slice(first, out.n_rows));
    first += out.n_rows;
    chunks_.push_back(std::move(out));
  }
}

template <class Body>
void LayerFlow::for_each_chunk(const Body& body) {
  Backend& backend = model_.backend();
  const Workspace work(backend, model_.config(), chunk_rows_);
  const KvCache cache(backend, model_.config(), 1, chunk_blocks_);  // every chunk's, one by one
  for (const Chunk& chunk : chunks_) {
    const LayerRun run{backend,         stream_,          model_.config(),
                       *chunk.variants, *chunk.attention, model_.weights().inv_freq};
    body(run, Rows{work.first_rows(chunk.n_rows), hidden_.slice(chunk.first_row, chunk.n_rows),
                   mixed_.empty() ? Tensor{} : mixed_.slice(chunk.first_row, chunk.n_rows), cache});
  }
}

Tensor LayerFlow::statistics(int64_t layer, LayerInput input) {
  DELTACOME_CHECK(stage_ == static_cast<int64_t>(input));
  ++stage_;
  Backend& backend = model_.backend();
  CompressionOps& ops = backend.compression();
  const LayerWeights& w = weights(layer);
  const ModelConfig& config = model_.config();
  const int64_t n_mixed = config.n_heads * config.head_dim;
  const int64_t n_in = input == LayerInput::kDown ? config.intermediate_size
                       : input == LayerInput::kO  ? n_mixed
                                                  : config.hidden_size;
  const Tensor c = backend.allocate(DType::kF64, {n_in, n_in});
  ops.clear(stream_, c);
  if (input == LayerInput::kO) mixed_ = backend.allocate(DType::kF32, {hidden_.rows(), n_mixed});
  for_each_chunk([&](const LayerRun& run, const Rows& rows) {
    const Workspace& work = rows.work;
    switch (input) {
      case LayerInput::kQkv:
        attention_input(run, w, rows.hidden, work);
        ops.gram(stream_, work.normed, c);
        break;
      case LayerInput::kO:
        attention_input(run, w, rows.hidden, work);
        attention_mix(run, w, layer, rows.cache.keys(0), rows.cache.values(0), work);
        ops.copy(stream_, work.mixed, rows.mixed);
        ops.gram(stream_, work.mixed, c);
        break;
      case LayerInput::kGateUp:
        ops.copy(stream_, rows.mixed, work.mixed);
        attention_output(run, w, work, rows.hidden);
        mlp_input(run, w, rows.hidden, work);
        ops.gram(stream_, work.normed, c);
        break;
      case LayerInput::kDown:
        mlp_input(run, w, rows.hidden, work);
        mlp_mix(run, w, work);
        ops.gram(stream_, work.gate, c);
        break;
    }
  });
  if (input == LayerInput::kGateUp) mixed_ = {};  // frees it
  return c;
}

void LayerFlow::finish_layer(int64_t layer) {
  const LayerWeights& w = weights(layer);
  for_each_chunk([&](const LayerRun& run, const Rows& rows) {
    const Workspace& work = rows.work;
    if (stage_ < 2) {
      attention_input(run, w, rows.hidden, work);
      attention_mix(run, w, layer, rows.cache.keys(0), rows.cache.values(0), work);
    } else if (stage_ == 2) {
      model_.backend().compression().copy(stream_, rows.mixed, work.mixed);
    }
    if (stage_ < 3) attention_output(run, w, work, rows.hidden);
    mlp_input(run, w, rows.hidden, work);
    mlp_mix(run, w, work);
    mlp_output(run, w, work, rows.hidden);
  });
  mixed_ = {};
  stage_ = 0;
  model_.layer_done(layer);
}

}  // namespace deltacome
