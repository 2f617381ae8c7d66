// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "backend/device.h"
#include "core/check.h"
#include "delta/base_model.h"
#include "delta/load_variant.h"
#include "deltacome/model.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/pictures.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace deltacome {

struct LanguageModel::Impl {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Model> model;
  Variant variant;
  PictureReader pictures;
  ModelConfig config;  // the variant's: vocabulary, stop ids
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::optional<Error> chat_template_error;  // a template that cannot be used stops only chats
};

LanguageModel::LanguageModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

LanguageModel LanguageModel::open(const ModelOptions& options) {
  auto impl = std::make_unique<Impl>();
  BaseModel base = open_base(options.model, options.base_deltas, options.n_threads);
  const Checkpoint& checkpoint = base.checkpoint;
  impl->config = std::move(base.config);
  impl->backend = create_backend(options.device, options.n_threads);
  impl->stream = impl->backend->create_stream();
  impl->model = std::make_unique<Model>(*impl->backend, checkpoint, impl->config,
                                        parse_weight_format(options.base_dtype),
                                        parse_kv_dtype(options.kv_dtype));
  std::filesystem::path text = checkpoint.directory();
  if (options.delta) {
    OpenedVariant opened =
        open_variant(*impl->backend, *impl->stream, *options.delta, checkpoint, impl->config);
    impl->config = std::move(opened.config);
    impl->variant = {std::move(opened.device), impl->config.vocab_size};
    text = opened.text_directory;
    impl->pictures =
        PictureReader::open(*impl->backend, opened.vision, impl->config, opened.vision_directory);
  } else {
    impl->pictures = PictureReader::open(*impl->backend, checkpoint, impl->config, options.model);
  }
  impl->tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(text));
  try {
    impl->chat_template = ChatTemplate::load(text);
  } catch (const Error& error) {
    impl->chat_template_error = error;
  }
  return LanguageModel(std::move(impl));
}

std::vector<int32_t> LanguageModel::encode(const std::string& text, bool add_special_tokens) const {
  return impl_->tokenizer->encode(text, add_special_tokens);
}

std::string LanguageModel::decode(const std::vector<int32_t>& tokens,
                                  bool skip_special_tokens) const {
  return impl_->tokenizer->decode(tokens, skip_special_tokens);
}

std::string LanguageModel::chat_prompt(const std::vector<ChatTurn>& turns) const {
  if (impl_->chat_template_error) throw Error(*impl_->chat_template_error);
  if (!impl_->chat_template)
    fail(ErrorCode::kUnsupported, "the model has no chat template; give the prompt as text");
  std::vector<ChatMessage> messages;
  for (const ChatTurn& turn : turns) messages.push_back({turn.role, turn.content});
  return impl_->chat_template->render(messages, true);
}

std::string LanguageModel::image_token() const {
  if (!impl_->config.vision) return "";
  return decode({static_cast<int32_t>(impl_->config.vision->image_token_id)}, false);
}

GenerateResult LanguageModel::generate(const std::string& prompt, const GenerateOptions& options,
                                       const std::function<bool(const std::string&)>& on_text,
                                       bool prompt_has_special_tokens) {
  using Clock = std::chrono::steady_clock;
  GenerateResult result;
  result.prompt_tokens = encode(prompt, !prompt_has_special_tokens);
  const Tensor given = impl_->pictures.features(*impl_->backend, *impl_->stream, options.images);
  std::vector<int32_t> model_tokens = result.prompt_tokens;
  if (!options.images.empty()) {
    const VisionConfig& vision = *impl_->config.vision;
    result.prompt_tokens = expand_image_tokens(result.prompt_tokens, vision);
    model_tokens =
        place_pictures(result.prompt_tokens, vision, static_cast<int64_t>(options.images.size()));
  }
  const auto n_prompt = static_cast<int64_t>(result.prompt_tokens.size());
  if (n_prompt == 0) fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  const int64_t room = impl_->config.max_positions - n_prompt;
  if (room <= 0) {
    fail(ErrorCode::kInvalidArgument, "the prompt has {} tokens, the model's context holds {}",
         n_prompt, impl_->config.max_positions);
  }
  const GenerationRequest request{
      .prompt = std::move(model_tokens),
      .variant = impl_->variant,
      .max_tokens = std::min(options.max_tokens, room),
      .stop_ids = impl_->config.eos_token_ids,
      .sampling = {.temperature = static_cast<float>(options.temperature),
                   .top_k = options.top_k,
                   .top_p = static_cast<float>(options.top_p),
                   .min_p = static_cast<float>(options.min_p)},
      .seed = options.seed,
      .given = given};
  StreamDecoder decoder(*impl_->tokenizer, true);
  const auto start = Clock::now();
  auto first = start;
  bool cancelled = false;
  const auto emit = [&](const std::string& piece) {
    result.text += piece;
    if (!piece.empty() && on_text && !cancelled) cancelled = !on_text(piece);
  };
  const std::vector<Generation> generations = deltacome::generate(
      *impl_->model, *impl_->stream, {&request, 1}, 1, [&](size_t, int32_t token) {
        if (first == start) first = Clock::now();
        emit(decoder.push(token));
        return !cancelled;
      });
  emit(decoder.finish());
  result.tokens = generations[0].tokens;
  result.finish_reason = generations[0].stopped ? "stop" : "length";
  result.prefill_s = std::chrono::duration<double>(first - start).count();
  result.decode_s = std::chrono::duration<double>(Clock::now() - first).count();
  return result;
}

int64_t LanguageModel::weight_bytes() const {
  return impl_->model->weights().bytes;
}
int64_t LanguageModel::delta_bytes() const {
  return impl_->variant.device ? impl_->variant.device->resident_bytes() : 0;
}
std::string LanguageModel::device() const {
  return impl_->backend->name();
}

}  // namespace deltacome
