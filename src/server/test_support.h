// SPDX-License-Identifier: Apache-2.0
// A stand-in for the engine, and a plain HTTP client, for tests and for load tests of the server
// alone.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/served_engine.h"

namespace deltacome::server::testing {

/// An engine without a model: a byte is a token, and the answer to any prompt is `text`, over and
/// over. One thread makes a round every `interval`, in which each running answer gets a token.
class FakeEngine : public ServedEngine {
 public:
  explicit FakeEngine(std::string text = "abcdefghij", std::chrono::microseconds interval = {})
      : text_(std::move(text)), interval_(interval), thread_([this] { run(); }) {}
  ~FakeEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  /// Rounds stop until resume().
  void pause() { set_paused(true); }
  void resume() { set_paused(false); }
  void set_text(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  void fail_next(Error error) {
    const std::lock_guard lock(mutex_);
    next_error_ = std::move(error);
  }
  size_t n_running() const {
    const std::lock_guard lock(mutex_);
    return running_.size();
  }
  int64_t n_cancelled() const {
    const std::lock_guard lock(mutex_);
    return n_cancelled_;
  }
  EngineRequest last_request() const {
    const std::lock_guard lock(mutex_);
    return last_;
  }
  void add_variant(const std::string& name) {
    const std::lock_guard lock(mutex_);
    variants_[name] = {.name = name, .path = "/nowhere", .state = VariantState::kReady};
  }

  uint64_t submit(EngineRequest request, Engine::EventHandler on_event) override {
    const std::lock_guard lock(mutex_);
    if (next_error_) {
      const Error error = *next_error_;
      next_error_.reset();
      throw Error(error);
    }
    if (!request.variant.empty()) need(request.variant);
    last_ = request;
    const uint64_t id = next_id_++;
    running_[id] = {std::move(request), std::move(on_event), 0};
    wake_.notify_all();
    return id;
  }
  void cancel(uint64_t request) override {
    const std::lock_guard lock(mutex_);
    const auto found = running_.find(request);
    if (found == running_.end() || found->second.cancelled) return;
    ++n_cancelled_;
    found->second.cancelled = true;
    wake_.notify_all();
  }
  void start_load(const std::string& name, const std::filesystem::path& path,
                  const LoadOptions& options, Engine::DoneHandler done) override {
    const std::lock_guard lock(mutex_);
    if (variants_.contains(name) && !options.replace)
      throw Error(ErrorCode::kInvalidArgument, "it exists");
    calls_.push_back([this, name, path, options, done] {
      {
        const std::lock_guard inner(mutex_);
        variants_[name] = {.name = name,
                           .path = path,
                           .state = options.lazy ? VariantState::kOnDisk : VariantState::kReady,
                           .pinned = options.pinned};
      }
      if (done) done(nullptr);
    });
    wake_.notify_all();
  }
  void start_unload(const std::string& name, UnloadMode, Engine::DoneHandler done) override {
    const std::lock_guard lock(mutex_);
    need(name);
    variants_.erase(name);
    calls_.push_back([done] {
      if (done) done(nullptr);
    });
    wake_.notify_all();
  }
  void set_pinned(const std::string& name, bool pinned) override {
    const std::lock_guard lock(mutex_);
    need(name).pinned = pinned;
  }
  std::vector<VariantStatus> variants() const override {
    const std::lock_guard lock(mutex_);
    std::vector<VariantStatus> out;
    for (const auto& [name, status] : variants_) out.push_back(status);
    return out;
  }
  std::vector<int32_t> encode(const std::string& variant, const std::string& text,
                              bool) const override {
    const std::lock_guard lock(mutex_);
    if (!variant.empty()) need(variant);
    std::vector<int32_t> out;
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  std::string decode(const std::string&, const std::vector<int32_t>& tokens, bool) const override {
    std::string out;
    for (const int32_t token : tokens) out += static_cast<char>(token);
    return out;
  }
  std::string chat_prompt_json(const std::string& variant, std::string_view json) const override {
    const std::lock_guard lock(mutex_);
    if (!variant.empty()) need(variant);
    return std::string(json);
  }
  EngineStats stats() const override {
    EngineStats out;
    out.running = static_cast<int64_t>(n_running());
    return out;
  }
  std::string device() const override { return "no device: an engine double"; }
  int64_t max_context() const override { return 100'000; }
  ArchiveInfo inspect(const std::filesystem::path&) const override {
    throw Error(ErrorCode::kNotFound, "there are no files");
  }

 private:
  struct Running {
    EngineRequest request;
    Engine::EventHandler on_event;
    int64_t n_tokens = 0;
    bool cancelled = false;
  };

  void set_paused(bool paused) {
    const std::lock_guard lock(mutex_);
    paused_ = paused;
    wake_.notify_all();
  }
  VariantStatus& need(const std::string& name) const {
    const auto found = variants_.find(name);
    if (found == variants_.end()) throw Error(ErrorCode::kNotFound, "no variant " + name);
    return found->second;
  }

  void run() {
    auto next_round = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!stopping_ && calls_.empty() && !has_work()) {
        wake_.wait(lock, [this] { return stopping_ || !calls_.empty() || has_work(); });
        next_round = std::chrono::steady_clock::now();
      }
      if (stopping_) return;
      std::vector<std::function<void()>> outbox;
      outbox.swap(calls_);
      for (auto at = running_.begin(); at != running_.end();)
        at = round(at, outbox) ? running_.erase(at) : std::next(at);
      lock.unlock();
      for (const auto& call : outbox) call();
      outbox.clear();
      if (interval_.count() > 0) {  // rounds that were late are made up for, a second's at most
        next_round = std::max(next_round + interval_,
                              std::chrono::steady_clock::now() - std::chrono::seconds(1));
        std::this_thread::sleep_until(next_round);
      }
      lock.lock();
    }
  }
  bool has_work() const {
    if (!paused_) return !running_.empty();
    for (const auto& [id, each] : running_)
      if (each.cancelled) return true;
    return false;
  }
  /// One token for each of its answers; whether they have ended.
  bool round(std::map<uint64_t, Running>::iterator at, std::vector<std::function<void()>>& outbox) {
    Running& r = at->second;
    if (paused_ && !r.cancelled) return false;
    if (!r.cancelled) ++r.n_tokens;
    for (int choice = 0; choice < r.request.n; ++choice) {
      TokenEvent e{.request = at->first, .choice = choice};
      if (r.cancelled) {
        e.finish = FinishReason::kCancelled;
      } else {
        const char c = text_[static_cast<size_t>(r.n_tokens - 1) % text_.size()];
        e.token = c;
        e.text = std::string(1, c);
        if (r.request.logprobs) {
          e.logprob = -0.5 * choice - 0.25;
          for (int i = 0; i < *r.request.logprobs; ++i)
            e.top_logprobs.push_back({c + i, -0.25 - i});
        }
        if (r.request.prompt_logprobs && r.n_tokens == 1 && choice == 0)
          for (size_t i = 1; i < r.request.prompt.size(); ++i)
            e.prompt_logprobs.push_back({.chosen = -0.125 * static_cast<double>(i),
                                         .rank = 2,
                                         .top = {{.token = 'A', .logprob = -0.0625}}});
        const bool whole =
            r.n_tokens == static_cast<int64_t>(text_.size()) && !r.request.ignore_eos;
        if (r.n_tokens >= r.request.max_tokens) e.finish = FinishReason::kLength;
        if (whole) e.finish = FinishReason::kStop;
      }
      e.prompt_tokens = static_cast<int64_t>(r.request.prompt.size());
      e.output_tokens = r.n_tokens;
      outbox.push_back([handler = r.on_event, e] { handler(e); });
      if (choice == r.request.n - 1 && e.finish != FinishReason::kNone) return true;
    }
    return false;
  }

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::string text_;
  const std::chrono::microseconds interval_;
  mutable std::map<std::string, VariantStatus> variants_;
  std::map<uint64_t, Running> running_;
  std::vector<std::function<void()>> calls_;
  std::optional<Error> next_error_;
  EngineRequest last_;
  uint64_t next_id_ = 1;
  int64_t n_cancelled_ = 0;
  bool paused_ = false, stopping_ = false;
  std::thread thread_;
};

/// A blocking TCP connection to this machine.
class Client {
 public:
  explicit Client(uint16_t port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0)
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  int fd() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  /// What is there, at least a byte; empty at the end.
  std::string read_some() const {
    char buffer[16384];
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  std::string read_to_end() const {
    std::string out = pending_;
    for (std::string piece; !(piece = read_some()).empty();) out += piece;
    return out;
  }
  std::string read_until(std::string_view mark) {
    size_t at = 0;
    while ((at = pending_.find(mark)) == std::string::npos) {
      const std::string piece = read_some();
      if (piece.empty()) return std::exchange(pending_, {});
      pending_ += piece;
    }
    const std::string out = pending_.substr(0, at + mark.size());
    pending_.erase(0, out.size());
    return out;
  }
  /// One response with a Content-Length, headers included.
  std::string read_response() {
    std::string out = read_until("\r\n\r\n");
    const size_t at = out.find("Content-Length: ");
    if (at == std::string::npos) return out;
    const size_t length = std::stoul(out.substr(at + 16));
    while (pending_.size() < length) {
      const std::string piece = read_some();
      if (piece.empty()) break;
      pending_ += piece;
    }
    out += pending_.substr(0, length);
    pending_.erase(0, length);
    return out;
  }

 private:
  int fd_;
  bool connected_ = false;
  std::string pending_;
};

inline std::string http_post(const std::string& path, const std::string& body,
                             const std::string& headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
         headers + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline std::string http_get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

}  // namespace deltacome::server::testing
