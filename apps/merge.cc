// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli.h"
#include "deltacome/archive.h"

namespace deltacome::cli {

void add_merge(CLI::App& program) {
  struct Options {
    std::string base, delta, out;
    int n_threads = 0;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand("merge", "Write base + delta as a Hugging Face checkpoint");
  add_path(*c, "--base", o->base, "Model directory of the base")->required();
  add_path(*c, "--delta", o->delta, "Archive directory")->required();
  add_path(*c, "--out", o->out, "Model directory to write")->required();
  add_threads_option(*c, o->n_threads);
  c->callback([o] {
    merge_archive(o->base, o->delta, o->out, o->n_threads);
    print(fmt::format("{} + {} written to {}\n", one_line(o->base), one_line(o->delta),
                      one_line(o->out)));
  });
}

}  // namespace deltacome::cli
