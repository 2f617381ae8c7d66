// SPDX-License-Identifier: Apache-2.0
// The server over loopback with an engine double.
#include "server/service.h"

#include <gtest/gtest.h>

#include <fstream>

#include "server/json_fields.h"
#include "server/request_reader.h"
#include "server/test_support.h"
#include "tests/support/temp_dir.h"

namespace deltacome::server {
namespace {

using testing::Client;
using testing::FakeEngine;
using testing::http_get;
using testing::http_post;

Json body_of_response(const std::string& response) {
  return Json::parse(response.substr(response.find("\r\n\r\n") + 4));
}
int status_of(const std::string& response) {
  return response.size() < 12 ? 0 : std::stoi(response.substr(9, 3));
}
/// The events of a chunked stream, without framing.
std::vector<std::string> events_of(const std::string& response) {
  std::vector<std::string> out;
  for (size_t at = 0; (at = response.find("data: ", at)) != std::string::npos;) {
    const size_t end = response.find("\n\n", at);
    out.push_back(response.substr(at + 6, end - at - 6));
    at = end;
  }
  return out;
}

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    options_.port = 0;
    options_.base_name = "base";
    options_.version = "test";
    options_.log_requests = false;
  }
  void start() {
    service_ = std::make_unique<Service>(engine_, options_);
    service_->start();
  }
  /// One request on a connection of its own.
  std::string ask(const std::string& request) {
    if (!service_) start();
    Client client(service_->port());
    client.write(request);
    return client.read_response();
  }
  template <class Condition>
  static void wait_for(const Condition& condition) {
    for (int i = 0; i < 2000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(condition());
  }

  const test::TempDir directory_;
  ServerOptions options_;
  FakeEngine engine_;
  std::unique_ptr<Service> service_;
};

TEST_F(ServiceTest, CompletesText) {
  const std::string response =
      ask(http_post("/v1/completions", R"({"model": "base", "prompt": "xyz", "max_tokens": 4})"));
  EXPECT_EQ(status_of(response), 200);
  const Json body = body_of_response(response);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "base");
  EXPECT_EQ(body["choices"][0]["text"], "abcd");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
  EXPECT_EQ(body["usage"]["total_tokens"], 7);
}

TEST_F(ServiceTest, AnswersBatchesTokensEchoAndN) {
  const Json body = body_of_response(
      ask(http_post("/v1/completions",
                    R"({"prompt": [[120, 121], [122]], "max_tokens": 2, "n": 2, "echo": true})")));
  ASSERT_EQ(body["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], i < 2 ? "xyab" : "zab");
  }
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
}

TEST_F(ServiceTest, EchoesPromptsWithTheirLogProbabilities) {
  const Json whole = body_of_response(
      ask(http_post("/v1/completions",
                    R"({"prompt": ["xyz", "u"], "max_tokens": 1, "echo": true, "logprobs": 0})")));
  const Json first = whole["choices"][0];
  EXPECT_EQ(first["text"], "xyza");
  EXPECT_EQ(first["logprobs"]["tokens"], Json({"x", "y", "z", "a"}));
  EXPECT_EQ(first["logprobs"]["token_logprobs"], Json({nullptr, -0.125, -0.25, -0.25}));
  EXPECT_EQ(first["logprobs"]["text_offset"], Json({0, 1, 2, 3}));
  EXPECT_EQ(first["logprobs"]["top_logprobs"][0], Json());
  EXPECT_EQ(first["logprobs"]["top_logprobs"][1], Json({{"y", -0.125}}));  // itself at least
  EXPECT_EQ(whole["choices"][1]["logprobs"]["token_logprobs"], Json({nullptr, -0.25}));

  const std::string prompt_only =
      R"({"prompt": "xyz", "max_tokens": 0, "echo": true, "logprobs": 1)";
  const Json none = body_of_response(ask(http_post("/v1/completions", prompt_only + "}")));
  EXPECT_EQ(none["choices"][0]["text"], "xyz");
  EXPECT_EQ(none["choices"][0]["logprobs"]["tokens"], Json({"x", "y", "z"}));
  EXPECT_EQ(none["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(none["usage"]["completion_tokens"], 0);

  Client client(service_->port());
  client.write(http_post("/v1/completions", prompt_only + R"(, "stream": true})"));
  const std::vector<std::string> events = events_of(client.read_until("0\r\n\r\n"));
  ASSERT_EQ(events.size(), 3u);
  const Json echo = Json::parse(events[0])["choices"][0];
  EXPECT_EQ(echo["text"], "xyz");
  EXPECT_EQ(echo["logprobs"]["tokens"], Json({"x", "y", "z"}));
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["text"], "");
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["finish_reason"], "length");
}

TEST_F(ServiceTest, GivesLogProbabilitiesOfPromptsInVllmsForm) {
  const Json body = body_of_response(
      ask(http_post("/v1/completions",
                    R"({"prompt": ["xyz", "u"], "max_tokens": 1, "prompt_logprobs": 1, "n": 2})")));
  ASSERT_EQ(body["choices"].size(), 4u);
  const Json want = Json::parse(
      R"([null, {"121": {"logprob": -0.125, "rank": 2, "decoded_token": "y"},
                 "65": {"logprob": -0.0625, "rank": 1, "decoded_token": "A"}},
                {"122": {"logprob": -0.25, "rank": 2, "decoded_token": "z"},
                 "65": {"logprob": -0.0625, "rank": 1, "decoded_token": "A"}}])");
  for (const size_t i : {0u, 1u}) {
    EXPECT_EQ(body["choices"][i]["prompt_logprobs"], want);
    EXPECT_EQ(body["choices"][i]["text"], "a");
  }
  EXPECT_EQ(body["choices"][2]["prompt_logprobs"], Json::parse("[null]"));

  // More of them than of those that echo shows.
  const Json both = body_of_response(
      ask(http_post("/v1/completions", R"({"prompt": "xy", "max_tokens": 1, "prompt_logprobs": 1,
                                          "echo": true, "logprobs": 0})")));
  EXPECT_EQ(both["choices"][0]["logprobs"]["top_logprobs"][1], Json({{"y", -0.125}}));
  EXPECT_EQ(both["choices"][0]["prompt_logprobs"][1].size(), 2u);

  const Json chat = body_of_response(
      ask(http_post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "x"}],
                                               "max_tokens": 1, "prompt_logprobs": 0})")));
  EXPECT_EQ(chat["prompt_logprobs"].size(), chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(chat["prompt_logprobs"][0], Json());
  EXPECT_EQ(chat["prompt_logprobs"][1].size(), 1u);
}

TEST_F(ServiceTest, AnswersInTheFormOfLorax) {
  engine_.add_variant("math");
  const std::string fields = R"("max_new_tokens": 2, "details": true, "decoder_input_details": true,
                               "adapter_id": "math", "adapter_source": "local")";
  const Json body = body_of_response(
      ask(http_post("/generate", R"({"inputs": "xy", "parameters": {)" + fields + "}}")));
  EXPECT_EQ(body["generated_text"], "ab");
  EXPECT_EQ(engine_.last_request().variant, "math");
  EXPECT_EQ(engine_.last_request().sampling.temperature,
            0);  // greedy, unless it is asked to sample
  const Json& details = body["details"];
  EXPECT_EQ(details["finish_reason"], "length");
  EXPECT_EQ(details["prompt_tokens"], 2);
  EXPECT_EQ(details["generated_tokens"], 2);
  EXPECT_EQ(details["prefill"], Json::parse(R"([{"id": 120, "text": "x", "logprob": null},
                                                {"id": 121, "text": "y", "logprob": -0.125}])"));
  ASSERT_EQ(details["tokens"].size(), 2u);
  EXPECT_EQ(details["tokens"][1],
            Json::parse(R"({"id": 98, "text": "b", "logprob": -0.25, "special": false})"));

  const Json plain = body_of_response(ask(http_post(
      "/", R"({"inputs": "xy", "parameters": {"max_new_tokens": 1, "return_full_text": true}})")));
  EXPECT_EQ(plain, Json::parse(R"([{"generated_text": "xya"}])"));

  Client client(service_->port());
  client.write(http_post("/generate_stream",
                         R"({"inputs": "x", "parameters": {"max_new_tokens": 2, "seed": 5}})"));
  const std::vector<std::string> events = events_of(client.read_until("0\r\n\r\n"));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(Json::parse(events[0])["token"]["text"], "a");
  EXPECT_EQ(Json::parse(events[0])["generated_text"], Json());
  const Json last = Json::parse(events[1]);
  EXPECT_EQ(last["generated_text"], "ab");
  EXPECT_EQ(last["details"], Json::parse(R"({"finish_reason": "length", "prompt_tokens": 1,
                                            "generated_tokens": 2, "seed": 5})"));
}

TEST_F(ServiceTest, RefusesInTheFormOfLorax) {
  const auto refused = [&](const std::string& parameters, const char* part, int status) {
    const std::string response =
        ask(http_post("/generate", R"({"inputs": "x", "parameters": {)" + parameters + "}}"));
    EXPECT_TRUE(response.starts_with("HTTP/1.1 " + std::to_string(status))) << response;
    const Json body = body_of_response(response);
    EXPECT_EQ(body["error_type"], "validation");
    EXPECT_NE(body["error"].get<std::string>().find(part), std::string::npos) << body;
  };
  refused(R"("max_new_tokens": 0)", "parameters.max_new_tokens", 422);
  refused(R"("typical_p": 0.5)", "typical_p", 422);
  refused(R"("merged_adapters": {})", "merged_adapters", 422);
  refused(R"("adapter_id": "none")", "does not exist", 404);
  engine_.fail_next(Error(ErrorCode::kOverloaded, "full"));
  const std::string full = ask(http_post("/generate", R"({"inputs": "x"})"));
  EXPECT_TRUE(full.starts_with("HTTP/1.1 429")) << full;
  EXPECT_EQ(body_of_response(full)["error_type"], "overloaded");
  EXPECT_NE(full.find("Retry-After: "), std::string::npos);
}

TEST_F(ServiceTest, OffsetsOfTokensAreInCharacters) {
  engine_.set_text("a");
  const Json body = body_of_response(
      ask(http_post("/v1/completions",
                    R"({"prompt": [195, 120], "max_tokens": 1, "echo": true, "logprobs": 0})")));
  // A byte that is no character is shown as one.
  EXPECT_EQ(body["choices"][0]["logprobs"]["text_offset"], Json({0, 1, 2}));
}

TEST_F(ServiceTest, BestOfKeepsTheLikeliest) {
  // The double's answer number i has log probabilities of -0.5 i - 0.25.
  const Json body = body_of_response(
      ask(http_post("/v1/completions",
                    R"({"prompt": "x", "max_tokens": 3, "n": 2, "best_of": 4, "logprobs": 1})")));
  ASSERT_EQ(body["choices"].size(), 2u);
  EXPECT_EQ(body["choices"][0]["logprobs"]["token_logprobs"], Json({-0.25, -0.25, -0.25}));
  EXPECT_EQ(body["choices"][1]["logprobs"]["token_logprobs"], Json({-0.75, -0.75, -0.75}));
  EXPECT_EQ(body["choices"][0]["logprobs"]["text_offset"], Json({0, 1, 2}));
  EXPECT_EQ(body["usage"]["completion_tokens"], 12);
}

TEST_F(ServiceTest, StreamsEventsWithUsageAndDone) {
  start();
  Client client(service_->port());
  client.write(http_post("/v1/chat/completions",
                         R"({"messages": [{"role": "user", "content": "hi"}], "stream": true,
                             "max_tokens": 3, "stream_options": {"include_usage": true}})"));
  const std::string response = client.read_until("0\r\n\r\n");
  EXPECT_NE(response.find("Content-Type: text/event-stream"), std::string::npos);
  const std::vector<std::string> events = events_of(response);
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events.back(), "[DONE]");
  const Json first = Json::parse(events[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  std::string text, finish;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json chunk = Json::parse(events[i]);
    text += chunk["choices"][0]["delta"].value("content", "");
    if (chunk["choices"][0]["finish_reason"].is_string())
      finish = chunk["choices"][0]["finish_reason"];
    EXPECT_TRUE(chunk["usage"].is_null());
  }
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(finish, "length");
  const Json usage = Json::parse(events[events.size() - 2]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 3);
  // The connection serves on.
  client.write(http_get("/version"));
  EXPECT_EQ(body_of_response(client.read_response())["version"], "test");
}

TEST_F(ServiceTest, GivesCallsOfToolsWholeAndStreamed) {
  engine_.set_text(
      "Sure.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>");
  const std::string request =
      R"("messages": [{"role": "user", "content": "hi"}],
         "tools": [{"type": "function", "function": {"name": "add"}}])";
  const Json whole = body_of_response(ask(http_post("/v1/chat/completions", "{" + request + "}")));
  const Json& message = whole["choices"][0]["message"];
  EXPECT_EQ(message["content"], "Sure.");
  EXPECT_EQ(message["tool_calls"][0]["function"]["name"], "add");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], "{\"a\": 1}");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "tool_calls");

  Client client(service_->port());
  client.write(http_post("/v1/chat/completions", "{\"stream\": true, " + request + "}"));
  std::string arguments, name, finish;
  for (const std::string& event : events_of(client.read_until("0\r\n\r\n"))) {
    if (event == "[DONE]") continue;
    const Json choice = Json::parse(event)["choices"][0];
    if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
    for (const Json& call : choice["delta"].value("tool_calls", Json::array())) {
      EXPECT_EQ(call["index"], 0);
      name += call["function"].value("name", "");
      arguments += call["function"].value("arguments", "");
    }
  }
  EXPECT_EQ(name, "add");
  EXPECT_EQ(arguments, "{\"a\": 1}");
  EXPECT_EQ(finish, "tool_calls");
}

TEST_F(ServiceTest, HoldsAnswersToCallsWhereOneIsRequired) {
  engine_.set_text(R"({"name": "f", "parameters": {"x": 1}})");
  const std::string response = ask(http_post("/v1/chat/completions", R"({"model": "base",
      "messages": [{"role": "user", "content": "a"}], "tool_choice": "required", "max_tokens": 90,
      "tools": [{"type": "function", "function": {"name": "f"}}]})"));
  ASSERT_EQ(status_of(response), 200) << response;
  const EngineRequest asked = engine_.last_request();
  ASSERT_TRUE(asked.constraint);
  EXPECT_EQ(asked.constraint->kind, Constraint::Kind::kToolCalls);
  const Json message = body_of_response(response)["choices"][0]["message"];
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], R"({"x": 1})");
}

TEST_F(ServiceTest, AClientThatGoesCancelsItsRequest) {
  engine_.pause();
  start();
  for (const char* stream : {"true", "false"}) {
    const int64_t before = engine_.n_cancelled();
    Client client(service_->port());
    client.write(
        http_post("/v1/completions", std::string(R"({"prompt": "x", "stream": )") + stream + "}"));
    wait_for([&] { return engine_.n_running() == 1; });
    client.close();
    wait_for([&] { return engine_.n_cancelled() == before + 1 && engine_.n_running() == 0; });
  }
}

TEST_F(ServiceTest, AReaderThatFallsBehindIsCutOffAndCancelled) {
  options_.stream_buffer_bytes = 64 << 10;
  start();
  Client slow(service_->port(), 4096);
  slow.write(http_post("/v1/completions", R"({"prompt": "x", "stream": true, "ignore_eos": true,
                                              "max_tokens": 1000000})"));
  wait_for([&] { return engine_.n_cancelled() == 1 && engine_.n_running() == 0; });
  const std::string metrics = ask(http_get("/metrics"));
  EXPECT_NE(metrics.find("deltacome:slow_readers_total{model_name=\"base\",engine=\"0\"} 1"),
            std::string::npos);
}

TEST_F(ServiceTest, AnswersPipelinedRequestsInOrder) {
  start();
  Client client(service_->port());
  std::string requests;
  for (int i = 1; i <= 20; ++i)
    requests += http_post("/v1/completions",
                          R"({"prompt": "x", "max_tokens": )" + std::to_string(i % 9 + 1) + "}");
  client.write(requests);
  for (int i = 1; i <= 20; ++i) {
    const Json body = body_of_response(client.read_response());
    EXPECT_EQ(body["usage"]["completion_tokens"], i % 9 + 1);
  }
}

TEST_F(ServiceTest, RefusesWhatIsTooLargeOrMalformed) {
  options_.body_bytes = 1000;
  options_.header_bytes = 2000;
  EXPECT_EQ(status_of(ask(http_post("/v1/completions", std::string(2000, ' ')))), 413);
  EXPECT_EQ(status_of(ask(http_get("/health", "X: " + std::string(4000, 'a') + "\r\n"))), 431);
  EXPECT_EQ(status_of(ask("nonsense\r\n\r\n")), 400);
  EXPECT_EQ(status_of(ask("GET http://x HTTP/1.1\r\n\r\n")), 400);
  EXPECT_EQ(status_of(ask(http_post("/v1/completions", "{"))), 400);
  EXPECT_EQ(status_of(ask(http_post("/v1/completions", "[]"))), 400);
  EXPECT_EQ(status_of(ask(http_get("/none"))), 404);
  const std::string no_get = ask(http_get("/v1/completions"));
  EXPECT_EQ(status_of(no_get), 405);
  EXPECT_NE(no_get.find("\r\nAllow: POST\r\n"), std::string::npos);
  EXPECT_EQ(status_of(ask(http_post("/v1/embeddings", "{}"))), 400);
  const Json error = body_of_response(ask(http_post("/v1/completions", R"({"prompt": 3})")));
  EXPECT_EQ(error["error"]["param"], "prompt");
  EXPECT_EQ(error["error"]["code"], 400);
  EXPECT_EQ(error["error"]["type"], "BadRequestError");
}

TEST_F(ServiceTest, ClosesConnectionsThatTakeTooLong) {
  options_.read_timeout = std::chrono::milliseconds(40);
  options_.idle_timeout = std::chrono::milliseconds(80);
  start();
  Client idle(service_->port()), slow(service_->port());
  slow.write("POST /v1/completions HTTP/1.1\r\nContent-Le");
  EXPECT_EQ(slow.read_to_end(), "");
  EXPECT_EQ(idle.read_to_end(), "");
}

TEST_F(ServiceTest, SaysContinueAndTakesChunkedBodies) {
  start();
  Client client(service_->port());
  client.write(
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.write("8\r\n{\"prompt\r\n7\r\n\":\"ab\"}\r\n0\r\n\r\n");
  EXPECT_EQ(body_of_response(client.read_response())["tokens"], Json({97, 98}));
}

// A last chunk that came in small pieces met an assertion of the HTTP parser.
TEST_F(ServiceTest, TakesChunkedBodiesByteByByte) {
  HttpLimits limits;
  RequestReader reader(limits);
  std::string waiting;
  for (const char c : std::string("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n")) {
    waiting += c;
    waiting.erase(0, reader.put(waiting.data(), waiting.size()));
  }
  ASSERT_TRUE(reader.done());
  EXPECT_EQ(waiting, "");
  EXPECT_EQ(reader.take()->body, "abcde");
}

TEST_F(ServiceTest, UnknownModelsAreNotFoundInVllmsWords) {
  const std::string response =
      ask(http_post("/v1/completions", R"({"model": "none", "prompt": "x"})"));
  EXPECT_EQ(status_of(response), 404);
  const Json error = body_of_response(response)["error"];
  EXPECT_EQ(error["message"], "The model `none` does not exist.");
  EXPECT_EQ(error["type"], "NotFoundError");
  EXPECT_EQ(error["param"], "model");
}

TEST_F(ServiceTest, AnOverloadedEngineIs429WithRetryAfter) {
  engine_.fail_next(Error(ErrorCode::kOverloaded, "full"));
  const std::string response = ask(http_post("/v1/completions", R"({"prompt": "x"})"));
  EXPECT_EQ(status_of(response), 429);
  EXPECT_NE(response.find("Retry-After: 1"), std::string::npos);
}

TEST_F(ServiceTest, KeysDecideWhoMayWhat) {
  const auto hex = [](const std::string& key) {
    std::string out;
    for (const unsigned char c : sha256(key))
      out += "0123456789abcdef"[c >> 4], out += "0123456789abcdef"[c & 15];
    return out;
  };
  const auto write_keys = [&](const std::string& user) {
    std::ofstream(directory_ / "keys.json")
        << R"({"keys": [{"name": "boss", "admin": true, "sha256": ")" << hex("root") << R"("},)"
        << R"({"name": "user", "variants": ["v1"], "requests_per_minute": 2, "sha256": ")"
        << hex(user) << R"("}]})";
  };
  write_keys("user");
  options_.keys_file = directory_ / "keys.json";
  engine_.add_variant("v1");
  engine_.add_variant("v2");
  const auto as = [&](const std::string& key, const std::string& model) {
    return ask(http_post("/v1/completions", R"({"prompt": "x", "model": ")" + model + "\"}",
                         key.empty() ? "" : "Authorization: Bearer " + key + "\r\n"));
  };
  EXPECT_EQ(status_of(as("", "v1")), 401);
  EXPECT_EQ(status_of(as("wrong", "v1")), 401);
  EXPECT_EQ(status_of(as("user", "v2")), 404);
  EXPECT_EQ(status_of(as("user", "base")), 404);
  EXPECT_EQ(status_of(as("user", "v1")), 200);
  EXPECT_EQ(engine_.last_request().tenant, "user");
  EXPECT_EQ(status_of(as("user", "v1")), 200);
  const std::string third = as("user", "v1");
  EXPECT_EQ(status_of(third), 429);
  EXPECT_NE(third.find("Retry-After: "), std::string::npos);
  EXPECT_EQ(status_of(as("root", "v2")), 200);
  const std::string user = "Authorization: Bearer user\r\n",
                    boss = "Authorization: Bearer root\r\n";
  EXPECT_EQ(status_of(ask(http_get("/v1/deltas", user))), 403);
  EXPECT_EQ(status_of(ask(http_get("/v1/deltas", boss))), 200);
  const Json models = body_of_response(ask(http_get("/v1/models", user)));
  ASSERT_EQ(models["data"].size(), 1u);
  EXPECT_EQ(models["data"][0]["id"], "v1");
  EXPECT_EQ(models["data"][0]["parent"], "base");
  write_keys("changed");
  service_->reload_keys();
  EXPECT_EQ(status_of(ask(http_get("/v1/models", user))), 401);
}

TEST_F(ServiceTest, LoadsAndUnloadsInVllmsWords) {
  std::filesystem::create_directory(directory_ / "a");
  options_.allowed_roots = {directory_.path()};
  const auto post = [&](const std::string& path, const std::string& body) {
    return ask(http_post(path, body));
  };
  const std::string load =
      R"({"lora_name": "a", "lora_path": ")" + (directory_ / "a").string() + "\"}";
  EXPECT_EQ(status_of(post("/v1/load_lora_adapter", R"({"lora_name": "a"})")), 400);
  const std::string loaded = post("/v1/load_lora_adapter", load);
  EXPECT_EQ(status_of(loaded), 200);
  EXPECT_TRUE(loaded.ends_with("Success: LoRA adapter 'a' added successfully."));
  const Json again = body_of_response(post("/v1/load_lora_adapter", load));
  EXPECT_EQ(again["error"]["type"], "InvalidUserInput");
  EXPECT_EQ(status_of(post("/v1/load_lora_adapter", R"({"lora_name": "b", "lora_path": "/etc"})")),
            403);
  EXPECT_EQ(status_of(ask(http_get("/v1/deltas/a"))), 200);
  const std::string gone = post("/v1/unload_lora_adapter", R"({"lora_name": "a"})");
  EXPECT_TRUE(gone.ends_with("Success: LoRA adapter 'a' removed successfully."));
  EXPECT_EQ(status_of(post("/v1/unload_lora_adapter", R"({"lora_name": "a"})")), 404);
}

TEST_F(ServiceTest, OtherSitesPagesCannotAdministrate) {
  EXPECT_EQ(status_of(ask("GET /v1/deltas HTTP/1.1\r\nHost: evil.example\r\n\r\n")), 403);
  EXPECT_EQ(status_of(ask("POST /v1/unload_delta HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                          "text/plain\r\nContent-Length: 2\r\n\r\n{}")),
            403);
}

TEST_F(ServiceTest, StopsGently) {
  engine_.pause();
  start();
  Client client(service_->port()), idle(service_->port());
  client.write(http_post("/v1/completions", R"({"prompt": "x", "max_tokens": 2})"));
  wait_for([&] { return engine_.n_running() == 1; });
  std::thread stopping([&] { service_->stop(); });
  EXPECT_EQ(idle.read_to_end(), "");
  engine_.resume();
  const std::string response = client.read_to_end();
  stopping.join();
  EXPECT_EQ(status_of(response), 200);
  EXPECT_NE(response.find("Connection: close"), std::string::npos);
  EXPECT_FALSE(Client(service_->port()).connected());
}

TEST_F(ServiceTest, StopsAtOnceIfItMust) {
  engine_.pause();
  start();
  Client client(service_->port());
  client.write(http_post("/v1/completions", R"({"prompt": "x", "stream": true})"));
  wait_for([&] { return engine_.n_running() == 1; });
  service_->hurry();
  service_->stop();
  EXPECT_EQ(engine_.n_running(), 0u);
  EXPECT_EQ(engine_.n_cancelled(), 1);
}

TEST_F(ServiceTest, ManyStreamsAtOnceAreAllWhole) {
  start();
  constexpr int kStreams = 200;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Client>(service_->port()));
    clients.back()->write(
        http_post("/v1/completions", R"({"prompt": "x", "stream": true, "max_tokens": 9})"));
  }
  for (const auto& client : clients) {
    std::string text;
    for (const std::string& event : events_of(client->read_until("0\r\n\r\n")))
      if (event != "[DONE]") text += Json::parse(event)["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(text, "abcdefghi");
  }
}

}  // namespace
}  // namespace deltacome::server
