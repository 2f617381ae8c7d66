// SPDX-License-Identifier: Apache-2.0
// The input is a model's answer, whatever its bytes, in pieces: a strict reader of server-sent
// events must get the same text back from the stream, by events that are JSON each.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "server/answer_format.h"
#include "server/http.h"

namespace {

using namespace deltacome::server;

/// The data of each event, after "Server-sent events", WHATWG HTML, §9.2.6. Aborts on what that
/// would ignore, since we write none of it.
std::vector<std::string> read_events(std::string_view stream) {
  std::vector<std::string> events;
  std::string data;
  while (!stream.empty()) {
    const size_t end = stream.find_first_of("\r\n");
    if (end == std::string_view::npos || stream[end] == '\r') std::abort();
    const std::string_view line = stream.substr(0, end);
    stream.remove_prefix(end + 1);
    if (line.empty()) {
      if (data.empty()) std::abort();
      events.push_back(std::exchange(data, {}));
    } else {
      if (!line.starts_with("data: ") || !data.empty()) std::abort();
      data = line.substr(6);
    }
  }
  if (!data.empty()) std::abort();
  return events;
}

/// What JSON makes of bytes that are no UTF-8.
std::string as_json_text(std::string_view bytes) {
  return Json::parse(to_text(Json(std::string(bytes)))).get<std::string>();
}

void check_stream(std::string_view input, bool chat, size_t step) {
  const std::string name(input.substr(0, 16));
  const ChunkWriter writer({.id = name, .model = name, .created = 1, .chat = chat}, true);
  std::string stream, want;
  const Json usage = usage_json({3, 1, 2});
  const Json stop = name;
  const Json calls = tool_calls_json({{.id = name, .name = name, .arguments = name}}, true);
  Json logprobs;
  for (size_t at = 0; at < input.size(); at += step) {
    const std::string_view text = input.substr(at, step);
    want += as_json_text(text);
    Chunk chunk{.index = 1, .text = text, .first = at == 0};
    if (chat && step % 2 == 0) chunk.tool_calls = &calls;
    if (step % 3 == 0) {
      const ShownToken shown{.text = std::string(text), .logprob = -1.5, .top = {{.text = name}}};
      logprobs = logprobs_json(chat, {shown}, static_cast<int64_t>(at));
      chunk.logprobs = &logprobs;
    }
    if (step % 5 == 0) chunk.usage = &usage;
    if (at + step >= input.size()) {
      chunk.finish_reason = "stop";
      chunk.stop_reason = &stop;
    }
    writer.append(stream, chunk);
  }
  writer.append_usage(stream, {3, 1, 2});
  append_error_event(stream, ApiError(500, std::string(input)));
  stream += kDoneEvent;

  std::vector<std::string> events = read_events(stream);
  if (events.back() != "[DONE]") std::abort();
  events.pop_back();
  std::string got;
  for (const std::string& event : events) {
    const Json value = Json::parse(event);
    if (value.contains("error")) continue;
    if (value.at("model") != as_json_text(name)) std::abort();
    for (const Json& choice : value.at("choices"))
      got += chat ? choice.at("delta").value("content", "") : choice.at("text").get<std::string>();
  }
  if (got != want) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), std::min<size_t>(size, 128));
  for (const bool chat : {false, true})
    for (const size_t step : {size_t{1}, size_t{6}, size_t{10}, input.size() + 1})
      check_stream(input, chat, step);
  return 0;
}
