// SPDX-License-Identifier: Apache-2.0
// What the server alone can do: Service over an engine double (src/server/test_support.h, no model)
// and a load generator in one process, so that both share the machine's cores.
//   server_load [SECONDS]      prints one JSON object
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>

#include "server/json_fields.h"
#include "server/service.h"
#include "server/test_support.h"

namespace deltacome::server {
namespace {

using testing::Client;
using testing::FakeEngine;
using testing::http_post;

constexpr int kClients = 16, kStreams = 1000, kStreamTokens = 250;
constexpr auto kTokenInterval = std::chrono::microseconds(20'000);  // 50 tokens/s

ServerOptions options() {
  ServerOptions out;
  out.port = 0;
  out.base_name = "base";
  out.log_requests = false;
  return out;
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double percentile(std::vector<double>& values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(p * static_cast<double>(values.size() - 1))];
}

/// Requests of 1 token on kept connections.
Json short_requests(double seconds) {
  FakeEngine engine("a");
  Service service(engine, options());
  service.start();
  std::atomic<bool> over = false;
  std::atomic<int64_t> n_good = 0, n_bad = 0;
  std::vector<std::vector<double>> took(kClients);
  std::vector<std::thread> clients;
  const auto began = Clock::now();
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      Client client(service.port());
      const std::string request =
          http_post("/v1/completions", R"({"model": "base", "prompt": "Hello", "max_tokens": 1})");
      while (!over) {
        const auto start = Clock::now();
        client.write(request);
        const bool good = client.read_response().starts_with("HTTP/1.1 200");
        ++(good ? n_good : n_bad);
        if (!good) break;
        took[static_cast<size_t>(i)].push_back(
            std::chrono::duration<double, std::milli>(Clock::now() - start).count());
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  over = true;
  for (std::thread& client : clients) client.join();
  const double elapsed = std::chrono::duration<double>(Clock::now() - began).count();
  std::vector<double> all;
  for (const auto& part : took) all.insert(all.end(), part.begin(), part.end());
  return {{"clients", kClients},
          {"requests_per_s", static_cast<double>(n_good) / elapsed},
          {"failed", n_bad.load()},
          {"p50_ms", percentile(all, 0.5)},
          {"p99_ms", percentile(all, 0.99)}};
}

/// Tells when the request with the salt "probe" came to the engine, and when its first token left.
class TimedEngine : public FakeEngine {
 public:
  using FakeEngine::FakeEngine;
  uint64_t submit(EngineRequest request, Engine::EventHandler on_event) override {
    if (request.cache_salt != "probe")
      return FakeEngine::submit(std::move(request), std::move(on_event));
    submitted = Clock::now();
    return FakeEngine::submit(std::move(request), [this, on_event](const TokenEvent& event) {
      first_token = Clock::now();  // there is one token
      on_event(event);
    });
  }
  std::atomic<Clock::time_point> submitted, first_token;
};

/// What the server adds to the time to the first token: from the request's way to the engine, and
/// the token's way back; while `n_streams` others get a token every 20 ms.
Json added_first_token_time(int n_streams, int n_probes) {
  TimedEngine engine("abcdefghij",
                     n_streams > 0 ? kTokenInterval : std::chrono::microseconds(1000));
  Service service(engine, options());
  service.start();
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<pollfd> polled;
  for (int i = 0; i < n_streams; ++i) {
    clients.push_back(std::make_unique<Client>(service.port()));
    clients.back()->write(
        http_post("/v1/completions",
                  R"({"prompt": "x", "stream": true, "ignore_eos": true, "max_tokens": 90000})"));
    polled.push_back({.fd = clients.back()->fd(), .events = POLLIN, .revents = 0});
  }
  std::atomic<bool> over = false;
  std::thread reader([&] {
    while (!over && n_streams > 0) {
      if (poll(polled.data(), polled.size(), 100) <= 0) continue;
      for (size_t i = 0; i < polled.size(); ++i)
        if (polled[i].revents != 0) clients[i]->read_some();
    }
  });
  while (engine.n_running() < static_cast<size_t>(n_streams))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const std::string request =
      http_post("/v1/completions",
                R"({"prompt": "x", "stream": true, "max_tokens": 1, "cache_salt": "probe"})");
  std::vector<double> added;
  Client probe(service.port());
  for (int i = 0; i < n_probes; ++i) {
    const auto sent = Clock::now();
    probe.write(request);
    if (probe.read_until("data: {").empty()) break;
    const auto seen = Clock::now();
    if (probe.read_until("0\r\n\r\n").empty()) break;
    const auto own = engine.first_token.load() - engine.submitted.load();
    added.push_back(std::chrono::duration<double, std::milli>(seen - sent - own).count());
  }
  over = true;
  reader.join();
  return {{"streams", n_streams},
          {"probes", added.size()},
          {"added_p50_ms", percentile(added, 0.5)},
          {"added_p99_ms", percentile(added, 0.99)}};
}

/// All streams at once, each with a token every 20 ms.
Json many_streams() {
  FakeEngine engine("abcdefghij", kTokenInterval);
  Service service(engine, options());
  service.start();
  const int64_t before = resident_bytes();
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<pollfd> polled;
  const auto began = Clock::now();
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Client>(service.port()));
    clients.back()->write(http_post(
        "/v1/completions", R"({"prompt": "x", "stream": true, "ignore_eos": true, "max_tokens": )" +
                               std::to_string(kStreamTokens) + "}"));
    polled.push_back({.fd = clients.back()->fd(), .events = POLLIN, .revents = 0});
  }
  const double opened = std::chrono::duration<double>(Clock::now() - began).count();
  std::vector<Clock::time_point> last(kStreams);
  std::vector<std::string> tails(kStreams);
  std::vector<double> gaps;
  int64_t most = 0, n_done = 0, n_failed = 0, n_events = 0;
  while (n_done + n_failed < kStreams && poll(polled.data(), polled.size(), 20'000) > 0) {
    const auto now = Clock::now();
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const std::string piece = tails[i] + clients[i]->read_some();
      for (size_t at = 0; (at = piece.find("data: {", at)) != std::string::npos; ++at) ++n_events;
      if (last[i] != Clock::time_point())
        gaps.push_back(std::chrono::duration<double, std::milli>(now - last[i]).count());
      last[i] = now;
      const bool done = piece.find("[DONE]") != std::string::npos;
      if (done || piece == tails[i]) {
        ++(done ? n_done : n_failed);
        polled[i].fd = -1;
      }
      tails[i] = piece.substr(piece.size() - std::min<size_t>(piece.size(), 6));
    }
    most = std::max(most, resident_bytes());
  }
  const double elapsed = std::chrono::duration<double>(Clock::now() - began).count();
  return {{"streams", kStreams},
          {"whole", n_done},
          {"failed", n_failed},
          {"events", n_events},
          {"opened_in_s", opened},
          {"tokens_per_s_a_stream", kStreamTokens / elapsed},
          {"gap_p50_ms", percentile(gaps, 0.5)},
          {"gap_p99_ms", percentile(gaps, 0.99)},
          {"gap_max_ms", percentile(gaps, 1)},
          {"memory_above_idle_mb", static_cast<double>(most - before) / 1e6}};
}

}  // namespace
}  // namespace deltacome::server

int main(int argc, char** argv) {
  using namespace deltacome::server;
  spdlog::set_level(spdlog::level::warn);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  std::cout << to_text(Json{{"engine", "double, no model"},
                            {"short_requests", short_requests(seconds)},
                            {"first_token_idle", added_first_token_time(0, 1000)},
                            {"first_token_beside_streams", added_first_token_time(200, 300)},
                            {"streams", many_streams()}})
            << "\n";
}
