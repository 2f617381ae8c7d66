// SPDX-License-Identifier: Apache-2.0
#include "deltacome/eval.h"

#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "model_parts.h"
#include "progress.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  ModelChoice choice;
  std::vector<std::string> base_deltas;
  std::optional<std::string> reference, generations;
  std::string data;
  EvalOptions eval;
  bool no_generate = false, json = false;
};

nlohmann::ordered_json to_json(const EvalResult& r) {
  return {{"nll", measured(r.nll)},
          {"kl", measured(r.kl)},
          {"top1", measured(r.top1)},
          {"exact_match", measured(r.exact_match)},
          {"tokens", r.tokens},
          {"rows", r.rows},
          {"answered_rows", r.answered_rows},
          {"seconds", r.seconds}};
}

std::string to_text(const EvalResult& r) {
  Table table({"", ""});
  table.add({"NLL, nats per token", format_figure(r.nll)});
  table.add({"KL(reference || candidate)", format_figure(r.kl)});
  table.add({"top-1 agreement", format_figure(r.top1)});
  table.add({"exact match", format_figure(r.exact_match)});
  table.add({"response tokens", std::to_string(r.tokens)});
  table.add({"rows", std::to_string(r.rows)});
  table.add({"rows with an answer", std::to_string(r.answered_rows)});
  table.add({"time", format_duration(r.seconds)});
  return table.text();
}

void eval(const Options& options) {
  check_model_choice(options.choice);
  EvalOptions request = options.eval;
  request.base = options.choice.base;
  request.base_deltas = to_paths(options.base_deltas);
  if (options.choice.delta) request.delta = *options.choice.delta;
  if (options.choice.model) request.model = *options.choice.model;
  if (options.reference) request.reference = *options.reference;
  if (options.generations) request.generations = *options.generations;
  request.data = options.data;
  request.generate = !options.no_generate;

  Progress line;
  const EvalResult result = evaluate(request, [&](int64_t done, int64_t total) {
    line.update(done, total, total > 0 ? done * 10 / total : 0, "rows");
  });
  line.finish();
  if (options.json) {
    print_json(to_json(result));
  } else {
    print(to_text(result));
  }
}

}  // namespace

void add_eval(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand("eval", "Score a model on rows {prompt, response, answer}");
  add_model_options(*c, o->choice);
  add_base_delta_option(*c, o->base_deltas);
  add_path(*c, "--reference", o->reference,
           "Model directory that KL and top-1 are measured against");
  add_path(*c, "--data", o->data, "Rows {prompt, response, answer?} as .jsonl", "FILE")->required();
  c->add_option("--limit", o->eval.limit, "First rows only; 0 = all")
      ->type_name("N")
      ->check(integer_in(0, int64_t{1} << 40));
  c->add_option("--max-tokens", o->eval.max_tokens, "Longest greedy generation; default 160")
      ->type_name("N")
      ->check(integer_in(1, int64_t{1} << 30));
  CLI::Option* no_generate =
      c->add_flag("--no-generate", o->no_generate, "Leave out greedy generation and exact match");
  add_path(*c, "--generations", o->generations,
           "Write what was generated here, one JSON object a row", "FILE")
      ->excludes(no_generate);
  add_base_dtype_option(*c, o->eval.base_dtype);
  add_kv_dtype_option(*c, o->eval.kv_dtype);
  add_device_option(*c, o->eval.device);
  add_threads_option(*c, o->eval.n_threads);
  add_json_option(*c, o->json);
  c->callback([o] { eval(*o); });
}

}  // namespace deltacome::cli
