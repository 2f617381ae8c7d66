// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <csignal>
#include <thread>

#include "cli.h"
#include "deltacome/server.h"

namespace deltacome::cli {
namespace {

struct Options {
  EngineOptions engine;
  ServerOptions server;
  std::string base;
  std::vector<std::string> deltas;  // NAME=PATH
  std::string model_dir, keys_file, tls_certificate, tls_key;
  std::vector<std::string> allowed_roots;
  double kv_cache_gib = 1, variants_gib = 4;
  double request_timeout_s = 600, drain_timeout_s = 30;
};

constexpr int kStopped = SIGUSR1;  // the program's own word that stop() has returned

/// The signals that serve_until_signal() waits for, and nobody else gets.
sigset_t served_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, kStopped}) sigaddset(&signals, signal);
  return signals;
}

/// Thousands of streams need as many file descriptors.
void raise_file_limit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void reload(Server& server) {
  try {
    server.reload_keys();
    spdlog::info("the keys have been read again");
  } catch (const Error& error) {
    spdlog::error("the keys stay as they were: {}", error.what());
  }
}

/// Returns when the server has stopped: at the first SIGTERM or SIGINT gently, at the second at
/// once.
void serve_until_signal(Server& server) {
  const sigset_t signals = served_signals();
  std::thread stopping;
  for (int signal = 0; sigwait(&signals, &signal) == 0;) {
    if (signal == kStopped && stopping.joinable()) break;
    if (signal == SIGHUP) {
      reload(server);
    } else if (signal == kStopped) {  // from outside: nothing has stopped
      continue;
    } else if (!stopping.joinable()) {
      spdlog::info("stopping: accepted requests are finished first");
      stopping = std::thread([&server, waiter = pthread_self()] {
        server.stop();
        pthread_kill(waiter, kStopped);
      });
    } else {
      server.hurry();
    }
  }
  stopping.join();
}

std::pair<std::string, std::string> split_delta(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos || equals + 1 == text.size())
    throw CLI::ValidationError("--delta", "\"" + text + "\" is not NAME=DIR");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

/// Lines are written by a thread of their own, and the oldest are dropped if standard error does
/// not take them: a log that nobody reads must not hold up answers.
void log_in_background() {
  constexpr size_t kLines = 4096;
  spdlog::init_thread_pool(kLines, 1);
  spdlog::set_default_logger(std::make_shared<spdlog::async_logger>(
      "deltacome", std::make_shared<spdlog::sinks::stderr_sink_mt>(), spdlog::thread_pool(),
      spdlog::async_overflow_policy::overrun_oldest));
}

void serve(Options options) {
  std::vector<std::pair<std::string, std::string>> deltas;
  for (const std::string& text : options.deltas) deltas.push_back(split_delta(text));
  // Before there are threads, which inherit it.
  const sigset_t signals = served_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  raise_file_limit();
  log_in_background();
  if (options.server.log_json) spdlog::set_pattern("%v");

  options.engine.base = options.server.base = options.base;
  options.engine.kv_cache_bytes = static_cast<int64_t>(options.kv_cache_gib * 0x1p30);
  options.engine.variant_bytes = static_cast<int64_t>(options.variants_gib * 0x1p30);
  options.server.model_dir = options.model_dir;
  options.server.keys_file = options.keys_file;
  options.server.tls_certificate = options.tls_certificate;
  options.server.tls_key = options.tls_key;
  options.server.allowed_roots.assign(options.allowed_roots.begin(), options.allowed_roots.end());
  options.server.version = DELTACOME_VERSION;
  const auto ms = [](double seconds) {
    return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  };
  options.server.request_timeout = ms(options.request_timeout_s);
  options.server.drain_timeout = ms(options.drain_timeout_s);

  Engine engine(options.engine);
  for (const auto& [name, path] : deltas) engine.load(name, path);
  Server server(engine, options.server);
  server.start();
  spdlog::info("listening on {}://{}:{} ({}; {} variants)",
               options.tls_certificate.empty() ? "http" : "https", options.server.host,
               server.port(), engine.device(), engine.variants().size());
  serve_until_signal(server);
  engine.stop(false);
  spdlog::info("stopped");
}

void add_engine_options(CLI::App& command, Options& o) {
  const auto positive = integer_in(1, int64_t{1} << 40);
  add_device_option(command, o.engine.device);
  add_device_memory_option(command, o.engine.device_memory_bytes);
  add_threads_option(command, o.engine.n_threads);
  add_base_dtype_option(command, o.engine.base_dtype);
  add_kv_dtype_option(command, o.engine.kv_dtype);
  command.add_option("--kv-cache-gib", o.kv_cache_gib, "Memory for keys and values (1)")
      ->type_name("GIB")
      ->check(number_in(0.001, 1e6));
  command.add_option("--variants-gib", o.variants_gib, "Memory for variants (4)")
      ->type_name("GIB")
      ->check(number_in(0.001, 1e6));
  command.add_option("--max-sequences", o.engine.max_sequences, "Answers computed at once (32)")
      ->type_name("N")
      ->check(positive);
  command.add_option("--step-tokens", o.engine.step_tokens, "Rows of a step at most (512)")
      ->type_name("N")
      ->check(positive);
  command.add_option("--max-waiting", o.engine.max_waiting, "Requests that wait (1024)")
      ->type_name("N")
      ->check(positive);
  command
      .add_option("--max-waiting-per-tenant", o.engine.max_waiting_per_tenant,
                  "Requests of one tenant that wait (1024)")
      ->type_name("N")
      ->check(positive);
  command.add_flag("--share-prefixes", o.engine.share_prefixes,
                   "Tenants share cached prefixes, and can notice it by the time it takes");
}

void add_server_options(CLI::App& command, Options& o) {
  command.add_option("--host", o.server.host, "Address to listen on (127.0.0.1)")->type_name("H");
  command.add_option("--port", o.server.port, "Port; 0 = a free one (8000)")->type_name("P");
  command.add_option("--served-model-name", o.server.base_name,
                     "Name of the base in requests (its directory's name)");
  add_path(command, "--model-dir", o.model_dir,
           "Directory of archives and adapters, each under its variant's name; watched");
  add_path(command, "--allow-root", o.allowed_roots,
           "Variants may be loaded from below this directory over HTTP; may be repeated");
  command
      .add_option("--image-host", o.server.image_hosts,
                  "Host that pictures of requests may be fetched from; may be repeated")
      ->type_name("HOST[:PORT]");
  add_path(command, "--keys", o.keys_file, "API keys (docs/server.md); read again at SIGHUP",
           "FILE");
  add_path(command, "--tls-cert", o.tls_certificate, "Certificate chain, PEM", "FILE");
  add_path(command, "--tls-key", o.tls_key, "Its key, PEM", "FILE");
  command.add_option("--io-threads", o.server.n_io_threads, "Threads for connections (2)")
      ->type_name("N")
      ->check(integer_in(1, 256));
  command.add_option("--max-connections", o.server.max_connections, "Open connections (4096)")
      ->type_name("N")
      ->check(integer_in(1, 1 << 20));
  command.add_option("--max-requests", o.server.max_requests, "Requests answered at once (2048)")
      ->type_name("N")
      ->check(integer_in(1, 1 << 20));
  command.add_option("--max-body-bytes", o.server.body_bytes, "Size of a request's body (8 MiB)")
      ->type_name("N")
      ->check(integer_in(1024, int64_t{1} << 30));
  command
      .add_option("--request-timeout", o.request_timeout_s,
                  "Seconds for an answer; 0 = no limit (600)")
      ->type_name("S")
      ->check(number_in(0, 1e6));
  command
      .add_option("--drain-timeout", o.drain_timeout_s,
                  "Seconds for accepted requests after SIGTERM (30)")
      ->type_name("S")
      ->check(number_in(0, 1e6));
  command.add_flag("--log-json", o.server.log_json, "Log lines of JSON");
  command.add_flag("--log-prompts", o.server.log_prompts,
                   "The bodies of requests for answers in the log");
  command.add_flag("!--no-log-requests", o.server.log_requests, "No line for each request");
}

}  // namespace

void add_serve(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *program.add_subcommand(
      "serve", "Serve a base and its variants over HTTP, as OpenAI's API (docs/server.md)");
  add_path(command, "--base", options->base, "Model directory of the base")->required();
  command
      .add_option("--delta", options->deltas,
                  "Archive or LoRA adapter that is loaded at the start; may be repeated")
      ->type_name("NAME=DIR");
  add_server_options(command, *options);
  add_engine_options(command, *options);
  command.callback([options] { serve(*options); });
}

}  // namespace deltacome::cli
