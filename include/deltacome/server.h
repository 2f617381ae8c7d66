// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "deltacome/engine.h"

namespace deltacome {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0 = a free one, see Server::port()
  int n_io_threads = 2;  // for connections
  int n_workers = 2;     // for what blocks: tokenizing, templates, files
  std::filesystem::path tls_certificate = {}, tls_key = {};  // PEM; both or none

  std::string base_name = {};            // `model` of the base; empty = the name of its directory
  std::filesystem::path base = {};       // the base's directory, shown as its root
  std::filesystem::path model_dir = {};  // a directory of archives and adapters, watched
  std::chrono::milliseconds model_dir_interval{2000};
  std::vector<std::filesystem::path> allowed_roots = {};  // loads come from below these, besides
                                                          // model_dir
  /// Pictures are fetched over http and https from these alone: "example.org", or with a port of
  /// its own "example.org:8080".
  std::vector<std::string> image_hosts = {};
  std::filesystem::path keys_file = {};  // empty: no keys, administration from this machine only

  // Limits.
  int64_t header_bytes = 16 << 10;
  int64_t body_bytes = 8 << 20;
  int64_t max_connections = 4096;
  int64_t max_requests = 2048;                         // that are answered at once
  int64_t max_queued_work = 1024;                      // requests that wait for a worker
  int64_t stream_buffer_bytes = 512 << 10;             // that a slow reader may lag behind
  std::chrono::milliseconds idle_timeout{75'000};      // between requests of a connection
  std::chrono::milliseconds read_timeout{30'000};      // for a request to arrive
  std::chrono::milliseconds write_timeout{30'000};     // without any progress of a reader
  std::chrono::milliseconds request_timeout{600'000};  // for an answer; 0 = none
  std::chrono::milliseconds drain_timeout{30'000};     // for accepted requests, at the end

  bool log_json = false;  // a line of JSON for each request, else of text
  bool log_requests = true;
  bool log_prompts = false;  // with it, the bodies of requests for answers
  std::string version = {};  // what /version says
};

/// An OpenAI-compatible HTTP server over an engine: docs/server.md. Logs to spdlog's default
/// logger. All members may be called from any thread.
class Server {
 public:
  /// Reads the keys; nothing listens yet. `engine` outlives it. Throws Error.
  Server(Engine& engine, const ServerOptions& options);
  /// As stop(), without patience.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Listens when it returns. Throws kIo if the address is not to be had. Once.
  void start();
  uint16_t port() const;
  /// Takes no more requests, lets accepted ones end for at most `drain_timeout`, then cancels them;
  /// returns when nothing is open. The engine goes on.
  void stop();
  /// Makes a stop() that goes on, or comes, lose its patience.
  void hurry();
  /// Reads the keys file again. Throws what is wrong with it; the keys stay then.
  void reload_keys();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deltacome
