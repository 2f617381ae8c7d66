// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "deltacome/archive.h"

namespace deltacome::cli {

void add_relate(CLI::App& program) {
  struct Options {
    std::string quantized, full;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "relate",
      "Record that a quantized base is another base in low precision, after comparing "
      "them: deltas of that one then run on it");
  add_path(*c, "quantized", o->quantized, "Model directory of the quantized base")->required();
  add_path(*c, "--quantized-from", o->full, "Model directory of the base in full precision")
      ->required();
  c->callback([o] {
    const BaseRelation relation = relate_bases(o->quantized, o->full);
    print(fmt::format("{}: {} of {}, weights off by at most {:.4f} of a matrix's norm; recorded\n",
                      one_line(o->quantized), relation.scheme, one_line(o->full),
                      relation.largest_error));
  });
}

}  // namespace deltacome::cli
