// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <limits>
#include <memory>

#include "cli.h"
#include "model_parts.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  PartsChoice choice;
  std::string to, out, type;
  std::vector<std::string> calibration;
  PeftOptions peft;
  bool has_rank = false, json = false;
};

void print_notes(const std::vector<std::string>& notes) {
  for (const std::string& sentence : notes) note("note: " + one_line(sentence));
}

void export_to_gguf(const Options& o) {
  const GgufReport report = write_gguf(
      {.model = to_parts(o.choice), .out = o.out, .type = o.type.empty() ? "f16" : o.type});
  print_notes(report.notes);
  if (o.json) {
    return print_json({{"out", o.out},
                       {"tensors", report.tensors},
                       {"bytes", report.bytes},
                       {"notes", report.notes}});
  }
  print(fmt::format("{} written to {} ({} tensors, {})\n", describe(o.choice), one_line(o.out),
                    report.tensors, format_bytes(report.bytes)));
}

void export_to_peft(const Options& o) {
  if (o.choice.deltas.size() != 1)
    throw CLI::ValidationError("--to peft: expected exactly one --delta");
  if (!o.has_rank) throw CLI::RequiredError("--rank");
  if (o.type == "q8_0") throw CLI::ValidationError("--type: an adapter is f32, f16 or bf16");
  PeftOptions options = o.peft;
  options.base = o.choice.base;
  options.base_deltas = to_paths(o.choice.base_deltas);
  options.finetuned = o.choice.deltas.front();
  options.out = o.out;
  options.calibration = to_paths(o.calibration);
  options.seed = o.choice.parts.seed;
  options.n_threads = o.choice.parts.n_threads;
  if (!o.type.empty()) options.dtype = o.type;
  const PeftReport report = export_peft(options);
  print_notes(report.notes);
  if (o.json) {
    nlohmann::ordered_json kinds = nlohmann::ordered_json::array();
    for (const PeftKind& kind : report.kinds) {
      kinds.push_back({{"kind", kind.kind},
                       {"matrices", kind.matrices},
                       {"error", kind.error},
                       {"output_error", measured(kind.output_error)}});
    }
    return print_json({{"out", o.out},
                       {"rank", options.rank},
                       {"bytes", report.bytes},
                       {"calibration_tokens", report.calibration_tokens},
                       {"kinds", kinds},
                       {"notes", report.notes}});
  }
  Table table({"kind", "matrices", "rel. error", "rel. output error"});
  for (const PeftKind& kind : report.kinds) {
    table.add({kind.kind, std::to_string(kind.matrices), format_figure(kind.error),
               format_figure(kind.output_error)});
  }
  print(table.text() + fmt::format("{} as a LoRA of rank {} written to {} ({})\n",
                                   describe(o.choice), options.rank, one_line(o.out),
                                   format_bytes(report.bytes)));
}

}  // namespace

void add_export(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "export", "Write base + delta for llama.cpp (GGUF), or a delta as a LoRA adapter (PEFT)");
  c->add_option("--to", o->to, "gguf or peft")
      ->type_name("FORMAT")
      ->required()
      ->check(CLI::IsMember({"gguf", "peft"}));
  add_parts_options(*c, o->choice);
  add_path(*c, "--out", o->out, "File (gguf) or directory (peft) to write", "PATH")->required();
  c->add_option("--type", o->type,
                "gguf: matrices in f32, f16 (default), bf16 or q8_0; peft: factors in f32 "
                "(default), f16 or bf16")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}));
  c->add_option("--rank", o->peft.rank, "peft: rank of the adapter")
      ->type_name("R")
      ->check(integer_in(1, 1 << 16));
  add_path(*c, "--calib", o->calibration,
           "peft: text whose outputs the adapter keeps best; .jsonl with \"text\", or plain; "
           "repeatable; without it the weights are kept best",
           "FILE")
      ->allow_extra_args(false);
  c->add_option("--calib-tokens", o->peft.calibration_tokens,
                "peft: calibration tokens to use; default 65536")
      ->type_name("N")
      ->check(integer_in(1, int64_t{1} << 40));
  add_json_option(*c, o->json);
  c->callback([o, c] {
    o->has_rank = c->count("--rank") > 0;
    const bool peft = o->to == "peft";
    for (const char* option : {"--rank", "--calib", "--calib-tokens"}) {
      if (!peft && c->count(option) > 0)
        throw CLI::ValidationError(std::string(option) + ": is for --to peft only");
    }
    for (const char* option : {"--weight", "--combine", "--density"}) {
      if (peft && c->count(option) > 0)
        throw CLI::ValidationError(std::string(option) + ": is not for --to peft");
    }
    if (peft) return export_to_peft(*o);
    export_to_gguf(*o);
  });
}

}  // namespace deltacome::cli
