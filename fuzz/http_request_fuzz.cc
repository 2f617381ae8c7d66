// SPDX-License-Identifier: Apache-2.0
// The input is what a client sends, in pieces: the bodies of whole requests are read as
// completions, as chats, in LoRAX's form and as a keys file. Only ApiError and deltacome::Error may
// escape.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/answer_request.h"
#include "server/generate_request.h"
#include "server/keys.h"
#include "server/request_reader.h"

namespace {

template <class F>
void allow_errors(const F& f) {
  try {
    f();
  } catch (const deltacome::server::ApiError& error) {
    if (error.message.empty()) std::abort();
  } catch (const deltacome::Error&) {
  }
}

void read_body(std::string_view body) {
  using namespace deltacome::server;
  allow_errors([&] { parse_completion(body); });
  allow_errors([&] {
    const AnswerRequest chat = parse_chat(body);
    if (!Json::accept(chat.template_context)) std::abort();
  });
  allow_errors([&] { parse_generate(body, GenerateRoute::kEither); });
  allow_errors([&] { Keys::parse(body, "fuzz"); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deltacome::server;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  read_body(input);
  const HttpLimits limits{.header_bytes = 512, .body_bytes = 4096};
  for (const size_t step : {size_t{1}, size_t{13}, size + 1}) {
    RequestReader reader(limits);
    std::string waiting;
    for (size_t at = 0; at < size && reader.failed() == 0 && !reader.done(); at += step) {
      waiting += input.substr(at, step);
      waiting.erase(0, reader.put(waiting.data(), waiting.size()));
      reader.wants_continue();
    }
    if (reader.failed() != 0 || !reader.done()) continue;
    if (const auto request = reader.take()) {
      if (request->body.size() > 4096 || request->path.empty()) std::abort();
      read_body(request->body);
    }
  }
  return 0;
}
