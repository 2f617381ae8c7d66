// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "backend/device.h"
#include "core/check.h"
#include "delta/base_model.h"
#include "delta/load_variant.h"
#include "deltacome/eval.h"
#include "eval/answer.h"
#include "image/data_uri.h"
#include "io/text_rows.h"
#include "model/generate.h"
#include "model/pictures.h"
#include "model/score.h"
#include "text/tokenizer.h"

namespace deltacome {
namespace {

/// The model that is scored, with what belongs to it.
struct Candidate {
  std::unique_ptr<Model> model;
  Variant variant;
  std::filesystem::path tokenizer;
  ModelConfig config;  // the variant's
  PictureReader pictures;
};

Candidate open_candidate(const EvalOptions& options, Backend& backend, Stream& stream) {
  if (options.delta && options.model) {
    fail(ErrorCode::kInvalidArgument,
         "both a delta and a model are given; expected one of them at most");
  }
  if (options.model && !options.base_deltas.empty())
    fail(ErrorCode::kInvalidArgument, "archives on the base are given, but a model instead of it");
  BaseModel base =
      open_base(options.model.value_or(options.base), options.base_deltas, options.n_threads);
  const Checkpoint& checkpoint = base.checkpoint;
  Candidate out;
  out.config = std::move(base.config);
  out.tokenizer = checkpoint.directory();
  out.model = std::make_unique<Model>(backend, checkpoint, out.config,
                                      parse_weight_format(options.base_dtype),
                                      parse_kv_dtype(options.kv_dtype));
  if (!options.delta) {
    out.pictures = PictureReader::open(backend, checkpoint, out.config, checkpoint.directory());
  } else {
    OpenedVariant opened = open_variant(backend, stream, *options.delta, checkpoint, out.config);
    out.config = std::move(opened.config);
    out.variant = {std::move(opened.device), out.config.vocab_size};
    out.tokenizer = opened.text_directory;
    out.pictures = PictureReader::open(backend, opened.vision, out.config, opened.vision_directory);
  }
  return out;
}

/// What KL is measured against, if anything.
struct Reference {
  std::unique_ptr<Model> model;
  PictureReader pictures;
};

Reference open_reference(const EvalOptions& options, Backend& backend) {
  if (!options.reference) return {};
  const Checkpoint checkpoint = Checkpoint::open(*options.reference);
  const ModelConfig config = read_model_config(*options.reference);
  return {std::make_unique<Model>(backend, checkpoint, config),
          PictureReader::open(backend, checkpoint, config, *options.reference)};
}

/// Both see a row's picture, each by its own tower.
void look_at(const std::string& picture, const Candidate& candidate, const Reference& reference,
             Backend& backend, Stream& stream, ScoredText& text) {
  text.given = candidate.pictures.features(backend, stream, {&picture, 1});
  if (!reference.model) return;
  text.reference_given = reference.pictures.features(backend, stream, {&picture, 1});
  if (text.reference_given.rows() == text.given.rows()) return;
  fail(ErrorCode::kMismatch,
       "a picture takes {} tokens of the reference and {} of the candidate, expected as many",
       text.reference_given.rows(), text.given.rows());
}

struct TokenizedRow {
  ScoredText text;              // scored_response()
  std::vector<int32_t> prompt;  // BOS + prompt alone
};

TokenizedRow tokenize(const EvalRow& row, const Tokenizer& tokenizer, const ModelConfig& config) {
  TokenizedRow out;
  const auto encode = [&](const std::string& text) {
    std::vector<TokenId> ids = tokenizer.encode(text, false);
    if (!row.image || !config.vision) return ids;
    return place_pictures(expand_image_tokens(ids, *config.vision), *config.vision, 1);
  };
  const std::vector<TokenId> prompt = encode(row.prompt);
  const std::vector<TokenId> whole = encode(row.prompt + row.response);
  out.text = scored_response(config, prompt, whole);
  if (config.bos_token_id) out.prompt.push_back(static_cast<int32_t>(*config.bos_token_id));
  out.prompt.insert(out.prompt.end(), prompt.begin(), prompt.end());
  if (out.prompt.empty() || static_cast<int64_t>(out.text.tokens.size()) <= out.text.first_scored) {
    fail(ErrorCode::kInvalidArgument, "a row has no response tokens to score: {}", row.json);
  }
  return out;
}

std::vector<std::string> complete(const Candidate& candidate, Stream& stream,
                                  const Tokenizer& tokenizer, std::span<const TokenizedRow> rows,
                                  std::span<const size_t> chosen, const EvalOptions& options) {
  std::vector<GenerationRequest> requests;
  for (const size_t i : chosen) {
    requests.push_back({.prompt = rows[i].prompt,
                        .variant = candidate.variant,
                        .max_tokens = options.max_tokens,
                        .stop_ids = candidate.config.eos_token_ids,
                        .sampling = {},
                        .seed = 0,
                        .given = rows[i].text.given});
  }
  std::vector<std::string> texts;
  for (const Generation& generation : generate(*candidate.model, stream, requests)) {
    texts.push_back(tokenizer.decode(generation.tokens, true));
  }
  return texts;
}

}  // namespace

EvalResult evaluate(const EvalOptions& options,
                    const std::function<void(int64_t, int64_t)>& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<EvalRow> rows = read_eval_rows(options.data, options.limit);
  const auto backend = create_backend(options.device, options.n_threads);
  const auto stream = backend->create_stream();
  const Candidate candidate = open_candidate(options, *backend, *stream);
  const Reference reference = open_reference(options, *backend);
  const Tokenizer tokenizer = Tokenizer::load(candidate.tokenizer);

  std::vector<TokenizedRow> tokenized;
  std::vector<ScoredText> texts;
  for (const EvalRow& row : rows) {
    tokenized.push_back(tokenize(row, tokenizer, candidate.config));
    if (row.image) {
      look_at(read_named_picture(*row.image, options.data.parent_path()), candidate, reference,
              *backend, *stream, tokenized.back().text);
    }
    texts.push_back(tokenized.back().text);
  }
  const auto total = static_cast<int64_t>(rows.size());
  const Score score = score_texts(*candidate.model, candidate.variant, reference.model.get(),
                                  *stream, texts, [&](int64_t done) {
                                    if (on_progress) on_progress(done, total);
                                  });
  EvalResult result;
  const auto n = static_cast<double>(score.tokens);
  result.nll = score.nll / n;
  if (reference.model) {
    result.kl = score.kl / n;
    result.top1 = static_cast<double>(score.top1) / n;
  }
  result.tokens = score.tokens;
  result.rows = total;

  std::vector<size_t> chosen;  // rows to complete
  for (size_t i = 0; i < rows.size(); ++i) {
    result.answered_rows += rows[i].answer.has_value();
    if (options.generations || (options.generate && rows[i].answer)) chosen.push_back(i);
  }
  const std::vector<std::string> completions =
      complete(candidate, *stream, tokenizer, tokenized, chosen, options);
  std::string lines;
  int64_t matches = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const EvalRow& row = rows[chosen[i]];
    matches += row.answer && gives_answer(completions[i], *row.answer);
    if (options.generations) lines += with_completion(row, completions[i]) + "\n";
  }
  if (!chosen.empty() && result.answered_rows > 0) {
    result.exact_match = static_cast<double>(matches) / static_cast<double>(result.answered_rows);
  }
  if (options.generations) write_file_atomically(*options.generations, lines);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace deltacome
