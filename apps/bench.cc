// SPDX-License-Identifier: Apache-2.0
#include "cli.h"

namespace deltacome::cli {

void add_bench(CLI::App& program) {
  CLI::App* bench = program.add_subcommand("bench", "Measure this machine with a model");
  bench->require_subcommand(1);
  add_bench_trace(*bench);
}

}  // namespace deltacome::cli
