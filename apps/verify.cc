// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "deltacome/archive.h"
#include "model_parts.h"

namespace deltacome::cli {

void add_verify(CLI::App& program) {
  struct Options {
    std::string archive;
    std::optional<std::string> base;
    std::vector<std::string> base_deltas;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "verify", "Check every byte of an archive, and that it belongs to a base");
  add_path(*c, "archive", o->archive, "Archive directory")->required();
  add_path(*c, "--base", o->base, "Model directory of the base");
  add_base_delta_option(*c, o->base_deltas);
  c->callback([o] {
    if (!o->base && !o->base_deltas.empty()) throw CLI::RequiredError("--base");
    const bool plain = o->base_deltas.empty();
    for (const std::string& sentence :
         verify_archive(o->archive, plain ? o->base : std::optional<std::string>()))
      note("note: " + sentence);
    if (!plain) check_lineage(o->archive, *o->base, to_paths(o->base_deltas));
    print(fmt::format("{}: every file matches its hash{}\n", one_line(o->archive),
                      o->base ? ", and it was made from " + one_line(*o->base) : ""));
  });
}

}  // namespace deltacome::cli
