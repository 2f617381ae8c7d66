// SPDX-License-Identifier: Apache-2.0
#include "server/answer_format.h"

#include <fmt/format.h>

#include <algorithm>

namespace deltacome::server {
namespace {

Json bytes_of(const std::string& text) {
  Json out = Json::array();
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

Json chat_token(const std::string& text, double logprob) {
  return {{"token", text}, {"logprob", finite_logprob(logprob)}, {"bytes", bytes_of(text)}};
}

Json choice_json(bool chat, const FinishedAnswer& answer) {
  Json out = {{"index", answer.index}};
  if (chat) {
    Json message = {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}};
    if (!answer.tool_calls.empty()) {
      if (answer.text.empty()) message["content"] = nullptr;
      message["tool_calls"] = tool_calls_json(answer.tool_calls, false);
    }
    out["message"] = std::move(message);
  } else {
    out["text"] = answer.text;
  }
  out["logprobs"] = answer.logprobs ? logprobs_json(chat, *answer.logprobs, 0) : Json();
  out["finish_reason"] = answer.finish_reason;
  out["stop_reason"] = answer.stop_reason;
  if (!chat && answer.prompt_logprobs) out["prompt_logprobs"] = *answer.prompt_logprobs;
  return out;
}

}  // namespace

double finite_logprob(double logprob) noexcept {
  return logprob > -9999.0 ? logprob : -9999.0;
}

int64_t n_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string_view finish_name(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"total_tokens", usage.prompt_tokens + usage.output_tokens},
          {"completion_tokens", usage.output_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json tool_calls_json(const std::vector<ToolCall>& calls, bool pieces) {
  Json out = Json::array();
  for (const ToolCall& call : calls) {
    Json shown = Json::object(), function = Json::object();
    if (pieces) shown["index"] = call.index;
    if (!call.name.empty()) {
      shown["id"] = call.id;
      shown["type"] = "function";
      function["name"] = call.name;
    }
    function["arguments"] = call.arguments;
    shown["function"] = std::move(function);
    out.push_back(std::move(shown));
  }
  return out;
}

Json logprobs_json(bool chat, const std::vector<ShownToken>& tokens, int64_t text_offset) {
  if (chat) {
    Json content = Json::array();
    for (const ShownToken& token : tokens) {
      Json shown = chat_token(token.text, token.logprob.value_or(0));
      shown["top_logprobs"] = Json::array();
      for (const TokenGuess& each : token.top)
        shown["top_logprobs"].push_back(chat_token(each.text, each.logprob));
      content.push_back(std::move(shown));
    }
    return {{"content", std::move(content)}};
  }
  Json out = {{"text_offset", Json::array()},
              {"token_logprobs", Json::array()},
              {"tokens", Json::array()},
              {"top_logprobs", Json::array()}};
  for (const ShownToken& token : tokens) {
    out["text_offset"].push_back(text_offset);
    out["tokens"].push_back(token.text);
    text_offset += n_characters(token.text);
    if (!token.logprob) {
      out["token_logprobs"].push_back(nullptr);
      out["top_logprobs"].push_back(nullptr);
      continue;
    }
    out["token_logprobs"].push_back(finite_logprob(*token.logprob));
    Json top = Json::object();
    for (const TokenGuess& each : token.top)  // of those that look alike the likeliest
      if (!top.contains(each.text)) top[each.text] = finite_logprob(each.logprob);
    if (!top.contains(token.text))
      top[token.text] = finite_logprob(*token.logprob);  // always named
    out["top_logprobs"].push_back(std::move(top));
  }
  return out;
}

Json prompt_logprobs_json(const std::vector<PromptToken>& tokens) {
  Json out = Json::array();
  for (const PromptToken& token : tokens) {
    Json place;
    for (const TokenGuess& guess : token) {
      const std::string id = std::to_string(guess.token);
      if (place.contains(id)) continue;  // the token itself is among the likeliest
      place[id] = {{"logprob", finite_logprob(guess.logprob)},
                   {"rank", guess.rank},
                   {"decoded_token", guess.text}};
    }
    out.push_back(std::move(place));
  }
  return out;
}

Json response_json(const AnswerHead& head, const std::vector<FinishedAnswer>& answers,
                   const Usage& usage, const std::string& fingerprint) {
  Json choices = Json::array();
  for (const FinishedAnswer& answer : answers) choices.push_back(choice_json(head.chat, answer));
  Json out = {{"id", head.id},
              {"object", head.chat ? "chat.completion" : "text_completion"},
              {"created", head.created},
              {"model", head.model},
              {"choices", std::move(choices)},
              {"usage", usage_json(usage)},
              {"service_tier", nullptr},
              {"system_fingerprint", fingerprint.empty() ? Json() : Json(fingerprint)}};
  if (head.chat && answers[0].prompt_logprobs)  // a chat has one prompt
    out["prompt_logprobs"] = *answers[0].prompt_logprobs;
  return out;
}

ChunkWriter::ChunkWriter(const AnswerHead& head, bool null_usage)
    : chat_(head.chat), null_usage_(null_usage) {
  begin_ = "data: {\"id\":";
  append_json_string(begin_, head.id);
  begin_ += head.chat ? ",\"object\":\"chat.completion.chunk\"" : ",\"object\":\"text_completion\"";
  begin_ += fmt::format(",\"created\":{},\"model\":", head.created);
  append_json_string(begin_, head.model);
  begin_ += ",\"choices\":[";
}

void ChunkWriter::append(std::string& out, const Chunk& chunk) const {
  out += begin_;
  fmt::format_to(std::back_inserter(out), "{{\"index\":{},", chunk.index);
  if (chat_) {
    out += "\"delta\":{";
    if (chunk.first) out += "\"role\":\"assistant\",";
    if (chunk.tool_calls != nullptr) {
      out += "\"tool_calls\":" + to_text(*chunk.tool_calls) + ",";
    }
    if (chunk.tool_calls == nullptr || !chunk.text.empty()) {
      out += "\"content\":";
      append_json_string(out, chunk.text);
    } else {
      out.pop_back();
    }
    out += '}';
  } else {
    out += "\"text\":";
    append_json_string(out, chunk.text);
  }
  out += ",\"logprobs\":";
  out += chunk.logprobs != nullptr ? to_text(*chunk.logprobs) : "null";
  if (chunk.finish_reason.empty()) {
    out += ",\"finish_reason\":null}]";
  } else {
    out += ",\"finish_reason\":";
    append_json_string(out, chunk.finish_reason);
    out += ",\"stop_reason\":";
    out += chunk.stop_reason != nullptr ? to_text(*chunk.stop_reason) : "null";
    out += "}]";
  }
  if (chunk.usage != nullptr) {
    out += ",\"usage\":" + to_text(*chunk.usage);
  } else if (null_usage_) {
    out += ",\"usage\":null";
  }
  out += "}\n\n";
}

void ChunkWriter::append_usage(std::string& out, const Usage& usage) const {
  out += begin_ + "],\"usage\":" + to_text(usage_json(usage)) + "}\n\n";
}

void append_error_event(std::string& out, const ApiError& error) {
  out += "data: " + error_body(error) + "\n\n";
}

}  // namespace deltacome::server
