// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>

#include "cli.h"
#include "deltacome/error.h"
#include "deltacome/model.h"
#include "model_parts.h"

namespace deltacome::cli {
namespace {

struct Options {
  ModelChoice choice;
  std::vector<std::string> base_deltas;
  std::string prompt, chat, system;  // may be given and empty
  bool has_prompt = false, has_chat = false, has_system = false;
  GenerateOptions generate;
  std::vector<std::string> images;  // files
  std::string device = "cpu";
  int n_threads = 0;
  std::string base_dtype = "auto", kv_dtype = "f32";
  bool json = false;
};

/// Whether `prompt` already begins with the tokens that the tokenizer puts before a text. Some chat
/// templates write them, others leave them to the tokenizer.
bool begins_with_special_tokens(const LanguageModel& model, const std::string& prompt) {
  const std::vector<int32_t> added = model.encode("", true);
  const std::vector<int32_t> ids = model.encode(prompt, false);
  return ids.size() >= added.size() && std::equal(added.begin(), added.end(), ids.begin());
}

/// The bytes of a picture's file; what is in it, the model's reader checks.
std::string read_picture_file(const std::string& path) {
  constexpr std::uintmax_t kMaxBytes = 64U << 20;  // the reader's own limit is below this
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw Error(ErrorCode::kNotFound, fmt::format("--image {}: no such file", path));
  if (size > kMaxBytes) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--image {}: the file has {} bytes, expected a picture", path, size));
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size)))
    throw Error(ErrorCode::kIo, fmt::format("--image {}: cannot be read", path));
  return bytes;
}

/// A message that shows pictures before it asks, unless it says where they are.
std::string with_image_tokens(const LanguageModel& model, const std::string& message,
                              size_t n_images) {
  const std::string token = model.image_token();
  if (token.empty() || message.find(token) != std::string::npos) return message;
  std::string out;
  for (size_t i = 0; i < n_images; ++i) out += token + "\n";
  return out + message;
}

nlohmann::ordered_json to_json(const GenerateResult& r, const LanguageModel& model) {
  return {{"text", r.text},
          {"finish_reason", r.finish_reason},
          {"prompt_tokens", r.prompt_tokens.size()},
          {"completion_tokens", r.tokens.size()},
          {"token_ids", r.tokens},
          {"prefill_s", r.prefill_s},
          {"decode_s", r.decode_s},
          {"weight_bytes", model.weight_bytes()},
          {"delta_bytes", model.delta_bytes()},
          {"device", model.device()}};
}

void generate(const Options& options) {
  check_model_choice(options.choice);
  if (options.choice.model && !options.base_deltas.empty())
    throw CLI::ValidationError("--base-delta: lies on --base, not on --model");
  if (options.has_prompt == options.has_chat) {
    throw CLI::ValidationError("exactly one of --prompt and --chat is needed");
  }
  LanguageModel model =
      LanguageModel::open({.model = options.choice.model.value_or(options.choice.base),
                           .base_deltas = to_paths(options.base_deltas),
                           .delta = options.choice.delta,
                           .device = options.device,
                           .n_threads = options.n_threads,
                           .base_dtype = options.base_dtype,
                           .kv_dtype = options.kv_dtype});
  std::string prompt;
  bool has_special_tokens = false;
  GenerateOptions request = options.generate;
  for (const std::string& file : options.images) request.images.push_back(read_picture_file(file));
  if (options.has_chat) {
    std::vector<ChatTurn> turns;
    if (options.has_system) turns.push_back({"system", options.system});
    turns.push_back({"user", with_image_tokens(model, options.chat, options.images.size())});
    prompt = model.chat_prompt(turns);
    has_special_tokens = begins_with_special_tokens(model, prompt);
  } else {
    prompt = options.prompt;
  }
  const auto stream = [&](const std::string& piece) {
    if (!options.json) print(piece);
    return true;
  };
  const GenerateResult result = model.generate(prompt, request, stream, has_special_tokens);
  if (options.json) return print_json(to_json(result, model));
  print("\n");
  if (isatty(STDERR_FILENO) == 1) {
    const double rate =
        result.decode_s > 0 ? static_cast<double>(result.tokens.size()) / result.decode_s : 0;
    note(fmt::format("[{} + {} tokens, {:.1f} tokens/s, {}; {}]", result.prompt_tokens.size(),
                     result.tokens.size(), rate, result.finish_reason, model.device()));
  }
}

}  // namespace

void add_generate(CLI::App& program) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = program.add_subcommand("generate", "Continue a prompt or answer a chat message");
  add_model_options(*c, o->choice);
  add_base_delta_option(*c, o->base_deltas);
  CLI::Option* prompt = c->add_option("--prompt", o->prompt, "Text to continue")->type_name("TEXT");
  CLI::Option* chat =
      c->add_option("--chat", o->chat, "Message to answer, by the model's chat template")
          ->type_name("TEXT")
          ->excludes(prompt);
  c->add_option("--system", o->system, "System message before --chat")
      ->type_name("TEXT")
      ->needs(chat);
  c->add_option(
       "--image", o->images,
       "Picture (PNG, JPEG, WebP) for a model with a vision tower; may be repeated. --prompt "
       "has an image token for each, --chat gets them before its message")
      ->type_name("FILE");
  c->add_option("--max-tokens", o->generate.max_tokens, "Longest completion; default 256")
      ->type_name("N")
      ->check(integer_in(1, int64_t{1} << 30));
  c->add_option("--temperature", o->generate.temperature, "0 = greedy (default)")
      ->type_name("X")
      ->check(number_in(0, 100));
  c->add_option("--top-k", o->generate.top_k, "Only the K most likely tokens; 0 = off")
      ->type_name("K")
      ->check(integer_in(0, std::numeric_limits<int>::max()));
  c->add_option("--top-p", o->generate.top_p,
                "Only the most likely tokens that hold this mass; 1 = off")
      ->type_name("P")
      ->check(number_in(0, 1));
  c->add_option("--min-p", o->generate.min_p,
                "Only tokens at least this likely, relative to the first; 0 = off")
      ->type_name("P")
      ->check(number_in(0, 1));
  c->add_option("--seed", o->generate.seed, "Of the random choices; default 0")
      ->type_name("N")
      ->check(integer_in(0, std::numeric_limits<int64_t>::max()));
  add_base_dtype_option(*c, o->base_dtype);
  add_kv_dtype_option(*c, o->kv_dtype);
  add_device_option(*c, o->device);
  add_threads_option(*c, o->n_threads);
  add_json_option(*c, o->json);
  c->callback([o, c] {
    o->has_prompt = c->count("--prompt") > 0;
    o->has_chat = c->count("--chat") > 0;
    o->has_system = c->count("--system") > 0;
    generate(*o);
  });
}

}  // namespace deltacome::cli
