// SPDX-License-Identifier: Apache-2.0
#include "model_parts.h"

#include <limits>

namespace deltacome::cli {

void add_base_delta_option(CLI::App& command, std::vector<std::string>& base_deltas) {
  add_path(command, "--base-delta", base_deltas,
           "Archive that, on --base, is the base; repeatable, each made over those before it")
      ->allow_extra_args(false);
}

std::vector<std::filesystem::path> to_paths(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

void add_combination_options(CLI::App& command, PartsChoice& choice) {
  command
      .add_option("--weight", choice.parts.weights,
                  "Of the fine-tune at the same place; default 1 / their number, with ties 1")
      ->type_name("X")
      ->allow_extra_args(false)
      ->check(number_in(-1e6, 1e6));
  command
      .add_option("--combine", choice.combination,
                  "How deltas are combined: linear (default: their weighted sum), ties or dare")
      ->type_name("NAME")
      ->check(CLI::IsMember({"linear", "ties", "dare"}));
  command
      .add_option("--density", choice.parts.density,
                  "Share of each delta's elements that ties (default 0.2) and dare (0.5) keep")
      ->type_name("X")
      ->check(number_in(1e-6, 1));
}

void add_parts_options(CLI::App& command, PartsChoice& choice) {
  add_path(command, "--base", choice.base, "Model directory of the base")->required();
  add_base_delta_option(command, choice.base_deltas);
  add_path(command, "--delta", choice.deltas,
           "Archive, LoRA adapter or checkpoint of a fine-tune; repeatable")
      ->allow_extra_args(false);
  add_combination_options(command, choice);
  command.add_option("--seed", choice.parts.seed, "Chooses what dare drops; default 0")
      ->type_name("N")
      ->check(integer_in(0, std::numeric_limits<int64_t>::max()));
  add_threads_option(command, choice.parts.n_threads);
}

ModelParts to_parts(const PartsChoice& choice) {
  ModelParts parts = choice.parts;
  parts.base = choice.base;
  parts.base_deltas = to_paths(choice.base_deltas);
  parts.deltas = to_paths(choice.deltas);
  if (choice.combination == "ties") parts.combination = Combination::kTies;
  if (choice.combination == "dare") parts.combination = Combination::kDare;
  if (!parts.weights.empty() && parts.weights.size() != parts.deltas.size()) {
    throw CLI::ValidationError("--weight: expected one for each fine-tune or none");
  }
  return parts;
}

std::string describe(const PartsChoice& choice) {
  std::string text = one_line(choice.base);
  for (const std::string& name : choice.base_deltas) text += " + " + one_line(name);
  for (const std::string& name : choice.deltas) text += " + " + one_line(name);
  return text;
}

}  // namespace deltacome::cli
