// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>
#include <memory>

#include "cli.h"
#include "model_parts.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  PartsChoice choice;
  std::string out, dtype, max_shard = "5GB";
  bool json = false;
};

/// "500MB", "5GB" (decimal, as the hub counts) or a number of bytes.
int64_t parse_size(const std::string& text) {
  int64_t value = 0, unit = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  if (suffix.empty() || suffix == "B") unit = 1;
  if (suffix == "KB") unit = 1'000;
  if (suffix == "MB") unit = 1'000'000;
  if (suffix == "GB") unit = 1'000'000'000;
  if (error != std::errc() || unit == 0 || value < 1 || value > (int64_t{1} << 32)) {
    throw CLI::ValidationError("--max-shard-size: " + text +
                               " is not a size, expected a number with B, KB, MB or GB");
  }
  return value * unit;
}

void merge(const Options& o) {
  const CheckpointReport report = write_checkpoint({.model = to_parts(o.choice),
                                                    .out = o.out,
                                                    .dtype = o.dtype,
                                                    .max_shard_bytes = parse_size(o.max_shard)});
  if (o.json) {
    return print_json({{"out", o.out},
                       {"tensors", report.tensors},
                       {"bytes", report.bytes},
                       {"shards", report.shards}});
  }
  print(fmt::format("{} written to {} ({} in {} file{})\n", describe(o.choice), one_line(o.out),
                    format_bytes(report.bytes), report.shards, report.shards == 1 ? "" : "s"));
}

}  // namespace

void add_merge(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "merge", "Write base + delta, or a combination of deltas, as a Hugging Face checkpoint");
  add_parts_options(*c, o->choice);
  c->get_option("--delta")->required();
  add_path(*c, "--out", o->out, "Model directory to write")->required();
  c->add_option("--dtype", o->dtype,
                "Type of the weights: bf16, f16 or f32; default the fine-tune's")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  c->add_option("--max-shard-size", o->max_shard, "Largest file of weights; default 5GB")
      ->type_name("SIZE");
  add_json_option(*c, o->json);
  c->callback([o] { merge(*o); });
}

}  // namespace deltacome::cli
