// SPDX-License-Identifier: Apache-2.0
#include "cli.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "deltacome/error.h"

namespace deltacome::cli {

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EPIPE) {
      throw OutputClosed();
    } else if (errno != EINTR) {
      throw Error(ErrorCode::kIo,
                  fmt::format("cannot write to standard output: {}", std::strerror(errno)));
    }
  }
}

void print_json(const nlohmann::ordered_json& object) {
  print(object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void note(std::string_view text) {
  fmt::print(stderr, "{}\n", one_line(text));
}

std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (c == '\n' || c == '\t') {
      out += ' ';
    } else {
      out += control ? '?' : c;
    }
  }
  return out;
}

nlohmann::ordered_json measured(double value) {
  return is_measured(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void add_model_options(CLI::App& command, ModelChoice& choice) {
  add_path(command, "--base", choice.base, "Model directory of the base; optional with --model");
  CLI::Option* delta = add_path(command, "--delta", choice.delta,
                                "Archive, or LoRA adapter in PEFT's layout, to run on the base");
  add_path(command, "--model", choice.model, "Model directory to run on its own instead")
      ->excludes(delta);
}

void check_model_choice(const ModelChoice& choice) {
  if (choice.base.empty() && !choice.model) throw CLI::RequiredError("--base");
}

CLI::Validator number_in(double low, double high) {
  const auto check = [low, high](const std::string& text) {
    double value = 0;
    if (!CLI::detail::lexical_cast(text, value)) return text + " is not a number";
    if (value >= low && value <= high) return std::string();
    return fmt::format("{} is not in [{:g}, {:g}]", text, low, high);
  };
  return {check, ""};
}

CLI::Validator integer_in(int64_t low, int64_t high) {
  const auto check = [low, high](const std::string& text) {
    int64_t value = 0;
    if (!CLI::detail::lexical_cast(text, value)) return text + " is not an integer in range";
    if (value >= low && value <= high) return std::string();
    return fmt::format("{} is not in [{}, {}]", text, low, high);
  };
  return {check, ""};
}

CLI::Validator not_empty() {
  return {
      [](const std::string& text) { return text.empty() ? "must not be empty" : std::string(); },
      ""};
}

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option(
          "--device", device,
          "What computes: cpu (default), cuda or cuda:N; cuda,deterministic: bits that depend "
          "on no batch, slower")
      ->type_name("NAME")
      ->check(not_empty());
}

void add_device_memory_option(CLI::App& command, int64_t& bytes) {
  command
      .add_option_function<double>(
          "--device-memory",
          [&bytes](const double& gib) { bytes = static_cast<int64_t>(gib * 0x1p30); },
          "Device memory for weights, variants, keys and values and workspace together (what is "
          "free)")
      ->type_name("GIB")
      ->check(number_in(0.001, 1e6));
}

void add_threads_option(CLI::App& command, int& n_threads) {
  command.add_option("--threads", n_threads, "Threads; 0 = one per core")
      ->type_name("N")
      ->check(integer_in(0, 4096));
}

void add_base_dtype_option(CLI::App& command, std::string& base_dtype) {
  command
      .add_option("--base-dtype", base_dtype,
                  "Weights of the base in memory: auto (as stored, default), bf16, int8 or int4")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"auto", "bf16", "int8", "int4"}));
}

void add_kv_dtype_option(CLI::App& command, std::string& kv_dtype) {
  command
      .add_option("--kv-dtype", kv_dtype,
                  "Keys and values in the cache: f32 (default), bf16 or int8")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}));
}

void add_json_option(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print one JSON object on standard output");
}

}  // namespace deltacome::cli
