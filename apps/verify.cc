// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "deltacome/archive.h"

namespace deltacome::cli {

void add_verify(CLI::App& program) {
  struct Options {
    std::string archive;
    std::optional<std::string> base;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "verify", "Check every byte of an archive, and that it belongs to a base");
  add_path(*c, "archive", o->archive, "Archive directory")->required();
  add_path(*c, "--base", o->base, "Model directory of the base");
  c->callback([o] {
    for (const std::string& sentence : verify_archive(o->archive, o->base))
      note("note: " + sentence);
    print(fmt::format("{}: every file matches its hash{}\n", one_line(o->archive),
                      o->base ? ", and it was made from " + one_line(*o->base) : ""));
  });
}

}  // namespace deltacome::cli
