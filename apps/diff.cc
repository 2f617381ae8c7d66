// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <memory>

#include "cli.h"
#include "model_parts.h"
#include "text.h"

namespace deltacome::cli {
namespace {

struct Options {
  std::string base, a, b;
  std::vector<std::string> base_deltas;
  int n_threads = 0;
  bool tensors = false, json = false;
};

/// Sums over tensors; the figures follow from them.
struct Sums {
  double base = 0, a = 0, b = 0, dot = 0;

  void add(const TensorDiff& t) {
    base += t.base_square;
    a += t.a_square;
    b += t.b_square;
    dot += t.dot;
  }
  double relative_a() const { return base > 0 ? std::sqrt(a / base) : -1; }
  double relative_b() const { return base > 0 ? std::sqrt(b / base) : -1; }
  bool has_cosine() const { return a > 0 && b > 0; }
  double cosine() const { return dot / std::sqrt(a * b); }
};

nlohmann::ordered_json to_json(const Sums& sums) {
  nlohmann::ordered_json object{{"relative_norm_a", measured(sums.relative_a())},
                                {"relative_norm_b", measured(sums.relative_b())},
                                {"cosine", nullptr}};
  if (sums.has_cosine()) object["cosine"] = sums.cosine();
  return object;
}

void add_row(Table& table, const std::string& name, const Sums& sums) {
  table.add({one_line(name), format_figure(sums.relative_a()), format_figure(sums.relative_b()),
             sums.has_cosine() ? fmt::format("{:.4f}", sums.cosine()) : "-"});
}

void diff(const Options& o) {
  const DiffReport report = diff_finetunes({.base = o.base,
                                            .base_deltas = to_paths(o.base_deltas),
                                            .a = o.a,
                                            .b = o.b,
                                            .n_threads = o.n_threads});
  std::map<int64_t, Sums> layers;
  std::map<std::string, Sums> kinds;
  Sums all;
  for (const TensorDiff& t : report.tensors) {
    layers[t.layer].add(t);
    kinds[t.kind].add(t);
    all.add(t);
  }
  if (o.json) {
    nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
    for (const TensorDiff& t : report.tensors) {
      Sums sums;
      sums.add(t);
      nlohmann::ordered_json object{{"name", t.name}, {"kind", t.kind}, {"layer", nullptr}};
      if (t.layer >= 0) object["layer"] = t.layer;
      object.update(to_json(sums));
      object["added_rows_a"] = t.added_rows_a;
      object["added_rows_b"] = t.added_rows_b;
      tensors.push_back(std::move(object));
    }
    nlohmann::ordered_json by_layer = nlohmann::ordered_json::array();
    for (const auto& [layer, sums] : layers) {
      if (layer < 0) continue;
      nlohmann::ordered_json object{{"layer", layer}};
      object.update(to_json(sums));
      by_layer.push_back(std::move(object));
    }
    return print_json({{"form_a", report.form_a},
                       {"form_b", report.form_b},
                       {"all", to_json(all)},
                       {"layers", by_layer},
                       {"tensors", tensors}});
  }
  Table table({o.tensors ? "tensor" : "part", "|dA| / |W|", "|dB| / |W|", "cosine"});
  if (o.tensors) {
    for (const TensorDiff& t : report.tensors) {
      Sums sums;
      sums.add(t);
      add_row(table, t.name, sums);
    }
  } else {
    for (const auto& [layer, sums] : layers)
      add_row(table, layer < 0 ? "outside of layers" : fmt::format("layer {}", layer), sums);
    for (const auto& [kind, sums] : kinds) add_row(table, kind, sums);
  }
  add_row(table, "all", all);
  print(table.text());
  for (const TensorDiff& t : report.tensors) {
    if (t.added_rows_a == 0 && t.added_rows_b == 0) continue;
    print(fmt::format("{}: {} rows more than the base in A, {} in B, left out above\n",
                      one_line(t.name), t.added_rows_a, t.added_rows_b));
  }
}

}  // namespace

void add_diff(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand(
      "diff",
      "Compare two fine-tunes of one base: which layers moved, how far and in which direction");
  add_path(*c, "a", o->a, "Archive, LoRA adapter or checkpoint")->required();
  add_path(*c, "b", o->b, "Another one")->required();
  add_path(*c, "--base", o->base, "Model directory of the base of both")->required();
  add_base_delta_option(*c, o->base_deltas);
  c->add_flag("--tensors", o->tensors, "A line for each tensor");
  add_threads_option(*c, o->n_threads);
  add_json_option(*c, o->json);
  c->callback([o] { diff(*o); });
}

}  // namespace deltacome::cli
