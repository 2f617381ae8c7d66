// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "archive_report.h"
#include "cli.h"
#include "deltacome/archive.h"

namespace deltacome::cli {
namespace {

std::string to_text(const ArchiveInfo& info) {
  std::string head = fmt::format(
      "method        {}\narchitecture  {}\nbase          {}  {}\nfine-tune     {}  {}\nmade by     "
      "  {}\n",
      one_line(info.method), one_line(info.architecture), one_line(info.base_name),
      one_line(info.base_hash), one_line(info.finetuned_name), one_line(info.finetuned_hash),
      one_line(info.created_by));
  if (info.tensors.empty())
    return head + "\nno tensor differs from the base\n\n" + sizes_table(info);
  return head + "\n" + kinds_table(info) +
         "  plan: codec, then rank:V bits/U bits of each tier; energy: share of the delta "
         "kept\n\n" +
         sizes_table(info) + "\n" + fidelity_lines(info);
}

}  // namespace

void add_inspect(CLI::App& program) {
  struct Options {
    std::string archive;
    bool json = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "inspect", "Describe an archive or LoRA adapter: plan, sizes, fidelity");
  add_path(*c, "archive", o->archive, "Archive directory, or a LoRA adapter in PEFT's layout")
      ->required();
  add_json_option(*c, o->json);
  c->callback([o] {
    const ArchiveInfo info = inspect_archive(o->archive);
    if (o->json) {
      print_json(to_json(info));
    } else {
      print(to_text(info));
    }
  });
}

}  // namespace deltacome::cli
