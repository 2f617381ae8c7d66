// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace deltacome::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// Each adds one subcommand, which runs when parsing ends. They throw deltacome::Error if the work
// fails, CLI::ParseError if the options make no sense.
void add_compress(CLI::App& program);
void add_inspect(CLI::App& program);
void add_verify(CLI::App& program);
void add_relate(CLI::App& program);
void add_merge(CLI::App& program);
void add_export(CLI::App& program);
void add_diff(CLI::App& program);
void add_card(CLI::App& program);
void add_eval(CLI::App& program);
void add_generate(CLI::App& program);
void add_serve(CLI::App& program);
void add_bench(CLI::App& program);
void add_bench_loads(CLI::App& bench);
void add_bench_memory(CLI::App& bench);
void add_bench_trace(CLI::App& bench);

/// The reader of standard output has gone (EPIPE): the program ends without a word.
struct OutputClosed : std::runtime_error {
  OutputClosed() : std::runtime_error("standard output is closed") {}
};

/// Writes to standard output at once. Throws OutputClosed, or Error(kIo) if it cannot be written.
void print(std::string_view text);
/// One JSON object on a line of standard output. Invalid UTF-8 becomes U+FFFD.
void print_json(const nlohmann::ordered_json& object);
/// A line on standard error.
void note(std::string_view text);

/// The text on one line, without control characters: names from files must not steer the terminal.
std::string one_line(std::string_view text);

/// The API marks figures that were not measured by a negative value; a KL divergence of zero may
/// come out a rounding error below it.
inline bool is_measured(double value) {
  return value > -1e-6;
}
/// A figure for JSON: null if it was not measured.
nlohmann::ordered_json measured(double value);

/// Which model a command runs: base, base + delta, or another checkpoint on its own.
struct ModelChoice {
  std::string base;
  std::optional<std::string> delta, model;
};
void add_model_options(CLI::App& command, ModelChoice& choice);
/// Throws CLI::RequiredError if neither --base nor --model was given.
void check_model_choice(const ModelChoice& choice);

/// Accepts a number in [low, high]; unlike CLI::Range it refuses NaN and is silent in --help.
CLI::Validator number_in(double low, double high);
CLI::Validator integer_in(int64_t low, int64_t high);
CLI::Validator not_empty();

/// An option or argument that names a file or directory ("--base \"$UNSET\"" is a mistake).
template <class T>
CLI::Option* add_path(CLI::App& command, const std::string& name, T& value, const std::string& help,
                      const char* type = "DIR") {
  return command.add_option(name, value, help)->type_name(type)->check(not_empty());
}

void add_device_option(CLI::App& command, std::string& device);
/// In GiB on the command line.
void add_device_memory_option(CLI::App& command, int64_t& bytes);
void add_threads_option(CLI::App& command, int& n_threads);
void add_base_dtype_option(CLI::App& command, std::string& base_dtype);
void add_kv_dtype_option(CLI::App& command, std::string& kv_dtype);
void add_json_option(CLI::App& command, bool& json);

}  // namespace deltacome::cli
