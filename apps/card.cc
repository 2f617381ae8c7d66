// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "deltacome/export.h"

namespace deltacome::cli {

void add_card(CLI::App& program) {
  struct Options {
    std::string archive;
    CardOptions card;
    bool replace = false, print_only = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "card", "Write a model card (README.md) for an archive: sizes, fidelity, provenance, use");
  add_path(*c, "archive", o->archive, "Archive directory")->required();
  c->add_option("--base-model", o->card.base_model,
                "The base as the hub names it; default the name of its directory")
      ->type_name("ID")
      ->check(not_empty());
  c->add_option("--license", o->card.license, "License of the fine-tune, for the card's header")
      ->type_name("NAME")
      ->check(not_empty());
  c->add_flag("--replace", o->replace, "Replace a card that is there");
  c->add_flag("--print", o->print_only, "Print the card instead of writing it")
      ->excludes("--replace");
  c->callback([o] {
    o->card.archive = o->archive;
    if (o->print_only) return print(model_card(o->card));
    write_model_card(o->card, o->replace);
    print(fmt::format("{}/README.md written\n", one_line(o->archive)));
  });
}

}  // namespace deltacome::cli
