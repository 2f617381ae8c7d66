// SPDX-License-Identifier: Apache-2.0
#include "deltacome/compress.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <limits>
#include <memory>

#include "archive_report.h"
#include "cli.h"
#include "combined_finetune.h"
#include "model_parts.h"
#include "progress.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  std::string base, out, method = "auto", profile = "balanced", codes = "auto";
  std::vector<std::string> base_deltas, calibration;
  PartsChoice parts;  // the fine-tunes, and how several become one
  std::optional<std::string> held_out, report;
  CompressOptions compress;
  std::vector<std::string> given;  // options of kNotForAdapters that the user gave
  bool json = false;
};

/// What shapes a delta that is yet to be made; a LoRA adapter is one already.
constexpr std::array kNotForAdapters{"--bits",  "--method", "--calib",    "--calib-tokens",
                                     "--group", "--seed",   "--held-out", "--resume"};

Method method_of(const std::string& name) {
  if (name == "lowrank") return Method::kLowRank;
  if (name == "bitdelta") return Method::kBitDelta;
  if (name == "come") return Method::kCome;
  return Method::kAuto;
}

Profile profile_of(const std::string& name) {
  if (name == "fast") return Profile::kFast;
  if (name == "best") return Profile::kBest;
  return Profile::kBalanced;
}

CodeFamily codes_of(const std::string& name) {
  if (name == "lowrank") return CodeFamily::kLowRank;
  if (name == "whole") return CodeFamily::kWhole;
  return CodeFamily::kAuto;
}

void show(Progress& line, const CompressProgress& p) {
  std::string text = p.stage;
  if (p.mean_error >= 0) text += fmt::format("  error {:.4f}", p.mean_error);
  text += fmt::format("  {} elapsed", format_duration(p.elapsed_s));
  if (p.remaining_s >= 0) text += fmt::format(", {} remaining", format_duration(p.remaining_s));
  // Outside the layers every stage is a part of its own.
  const bool in_layer = p.stage.find("layers.") != std::string::npos;
  line.update(p.layer, p.n_layers,
              in_layer ? p.layer : p.n_layers + 1 + static_cast<int64_t>(p.stage.size()), text);
}

nlohmann::ordered_json to_json(const CompressReport& report, const std::string& out) {
  nlohmann::ordered_json object = cli::to_json(report.archive);
  // One summary per kind: the report's own, which knows the matrices that are equal in both models.
  nlohmann::ordered_json summary = nlohmann::ordered_json::array();
  for (const KindSummary& kind : report.kinds) {
    summary.push_back({{"kind", kind.kind},
                       {"matrices", kind.matrices},
                       {"rank", kind.rank},
                       {"bits_per_weight", kind.bits_per_weight},
                       {"relative_error", measured(kind.relative_error)}});
  }
  object["summary"] = std::move(summary);
  nlohmann::ordered_json tried = nlohmann::ordered_json::array();
  for (const TriedMethod& t : report.tried) {
    tried.push_back({{"name", t.name},
                     {"bits_per_weight", t.bits_per_weight},
                     {"kl", t.kl},
                     {"chosen", t.chosen}});
  }
  object["tried"] = std::move(tried);
  object["out"] = out;
  object["notes"] = report.notes;
  object["seconds"] = report.seconds;
  object["peak_resident_bytes"] = report.peak_resident_bytes;
  object["peak_device_bytes"] = report.peak_device_bytes;
  return object;
}

std::string to_text(const CompressReport& report, const std::string& out) {
  Table table({"kind", "matrices", "rank", "bits", "rel. output error"});
  for (const KindSummary& kind : report.kinds) {
    table.add({kind.kind, std::to_string(kind.matrices),
               kind.rank > 0 ? fmt::format("{:.4g}", kind.rank) : "-",
               fmt::format("{:.3f}", kind.bits_per_weight), format_figure(kind.relative_error)});
  }
  std::string text =
      table.text() + "\n" + sizes_table(report.archive) + "\n" + fidelity_lines(report.archive);
  if (!report.tried.empty()) {
    Table tried({"tried", "bits", "KL on held-back text"});
    for (const TriedMethod& t : report.tried)
      tried.add({t.name, fmt::format("{:.3f}", t.bits_per_weight), fmt::format("{:.5f}", t.kl)});
    text += "\n" + tried.text();
  }
  for (const std::string& sentence : report.notes) text += "note: " + one_line(sentence) + "\n";
  text += fmt::format("{} written in {}, at most {} resident", one_line(out),
                      format_duration(report.seconds), format_bytes(report.peak_resident_bytes));
  if (report.peak_device_bytes > 0)
    text += fmt::format(", {} of device memory", format_bytes(report.peak_device_bytes));
  text += "\n";
  return text;
}

bool is_combination(const PartsChoice& parts) {
  return parts.deltas.size() > 1 || !parts.parts.weights.empty() || parts.parts.density ||
         parts.combination != "linear";
}

/// The parts with what compress has for all its work.
PartsChoice parts_of(const Options& options) {
  PartsChoice parts = options.parts;
  parts.base = options.base;
  parts.base_deltas = options.base_deltas;
  parts.parts.seed = options.compress.seed;
  parts.parts.n_threads = options.compress.n_threads;
  return parts;
}

void compress(const Options& options) {
  CompressOptions request = options.compress;
  request.base = options.base;
  request.base_deltas = to_paths(options.base_deltas);
  request.out = options.out;
  request.method = method_of(options.method);
  request.profile = profile_of(options.profile);
  request.codes = codes_of(options.codes);
  if (options.report) request.report = *options.report;
  request.calibration.assign(options.calibration.begin(), options.calibration.end());
  if (options.held_out) request.held_out = *options.held_out;

  std::optional<CombinedFinetune> combined;
  if (is_combination(options.parts)) {
    combined.emplace(parts_of(options), options.out, options.compress.resume);
    request.finetuned_name = combined->name();
  }
  request.finetuned = combined ? combined->path().string() : options.parts.deltas.front();

  Progress line;
  CompressReport report =
      compress_delta(request, [&](const CompressProgress& p) { show(line, p); });
  line.finish();
  if (report.archive.method == "lora" && !options.given.empty()) {
    report.notes.push_back(
        fmt::format("the fine-tune is a LoRA adapter, which is kept as it is: {} had no effect",
                    fmt::join(options.given, ", ")));
  }
  if (options.json) {
    print_json(to_json(report, options.out));
  } else {
    print(to_text(report, options.out));
  }
}

/// Accepts 0 < bits <= 16; the conversion to a number has its own message.
std::string check_bits(const std::string& text) {
  double bits = 0;
  if (!CLI::detail::lexical_cast(text, bits)) return text + " is not a number";
  return bits > 0 && bits <= 16 ? std::string() : text + " is not in (0, 16]";
}

}  // namespace

void add_compress(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c =
      program.add_subcommand("compress", "Compress a fine-tune against its base into an archive");
  add_path(*c, "--base", o->base, "Model directory of the base")->required();
  add_base_delta_option(*c, o->base_deltas);
  add_path(*c, "--finetuned", o->parts.deltas,
           "Model directory of the fine-tune, or a LoRA adapter in PEFT's layout; repeatable, also "
           "archives then: their combination")
      ->required()
      ->allow_extra_args(false);
  add_combination_options(*c, o->parts);
  add_path(*c, "--out", o->out, "Archive directory to write")->required();
  c->add_option("--bits", o->compress.bits,
                "Stored bits per projection weight, everything included; default 1")
      ->type_name("X")
      ->check(CLI::Validator(check_bits, ""));
  c->add_option("--method", o->method, "auto (default), come, lowrank or bitdelta")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "come", "lowrank", "bitdelta"}));
  c->add_option("--profile", o->profile,
                "Work of auto: fast (no distillation), balanced (default) or best")
      ->type_name("NAME")
      ->check(CLI::IsMember({"fast", "balanced", "best"}));
  c->add_option("--distill", o->compress.distill_minutes,
                "Minutes of distillation of gains, singular values and norms; default by profile, "
                "0 = none")
      ->type_name("MINUTES")
      ->check(CLI::Range(0.0, 1e5));
  c->add_option("--codes", o->codes, "Codes that auto may use: auto (default), lowrank or whole")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "lowrank", "whole"}));
  c->add_option("--target-kl", o->compress.target_kl,
                "The smallest archive whose held-out KL is at most K, instead of --bits")
      ->type_name("K")
      ->check(CLI::PositiveNumber);
  add_path(*c, "--report", o->report, "Directory for an HTML report of what was measured", "DIR");
  add_path(
      *c, "--calib", o->calibration,
      "Calibration text: .jsonl with \"text\", or plain; repeatable; without it, the fine-tune "
      "writes the text of method auto itself",
      "FILE")
      ->allow_extra_args(false);
  c->add_option("--calib-tokens", o->compress.calibration_tokens,
                "Calibration tokens to use; default 65536, with auto twice (balanced) or four "
                "times (best) that")
      ->type_name("N")
      ->check(integer_in(1, int64_t{1} << 40));
  c->add_option("--vision-bits", o->compress.vision_bits,
                "Bits of a vision tower's weights, 8 or 16 (as they are); default 8")
      ->type_name("N")
      ->check(CLI::IsMember({8, 16}));
  c->add_option("--group", o->compress.group, "Codes that share a scale; default 128")
      ->type_name("N")
      ->check(integer_in(1, int64_t{1} << 30));
  c->add_option("--seed", o->compress.seed,
                "Chooses the calibration rows, and what dare drops; default 0")
      ->type_name("N")
      ->check(integer_in(0, std::numeric_limits<int64_t>::max()));
  add_path(*c, "--held-out", o->held_out,
           "Rows {prompt, response} to measure KL and top-1 of the responses on", "FILE");
  c->add_flag("--resume", o->compress.resume,
              "Continue an interrupted run after its last finished layer");
  add_device_option(*c, o->compress.device);
  add_threads_option(*c, o->compress.n_threads);
  add_json_option(*c, o->json);
  c->footer(
      "A LoRA adapter in PEFT's layout (adapter_config.json) is converted as it is, its factors in "
      "16 bits: --bits, --method, --calib, --calib-tokens, --group, --seed, --held-out and "
      "--resume "
      "have no effect then, and a note says so.");
  c->callback([o, c] {
    for (const char* option : kNotForAdapters) {
      if (c->count(option) > 0) o->given.push_back(option);
    }
    compress(*o);
  });
}

}  // namespace deltacome::cli
