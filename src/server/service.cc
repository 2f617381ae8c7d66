// SPDX-License-Identifier: Apache-2.0
#include "server/service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <new>
#include <thread>

#include "server/request_log.h"
#include "server/tracked_stream.h"

namespace deltacome::server {
namespace {

std::string base_name_of(const ServerOptions& options) {
  if (!options.base_name.empty()) return options.base_name;
  const std::filesystem::path base = options.base.lexically_normal();
  const std::string name =
      base.has_filename() ? base.filename().string() : base.parent_path().filename().string();
  return name.empty() || name == "." ? "base" : name;
}

std::vector<std::filesystem::path> roots_of(const ServerOptions& options) {
  std::vector<std::filesystem::path> out;
  if (!options.model_dir.empty()) out.push_back(options.model_dir);
  out.insert(out.end(), options.allowed_roots.begin(), options.allowed_roots.end());
  return out;
}

template <class... Lists>
std::vector<Route> join(Lists... lists) {
  std::vector<Route> out;
  (out.insert(out.end(), lists.begin(), lists.end()), ...);
  return out;
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1" || address.starts_with("::ffff:127.");
}

/// Whether a browser that was led here by another site's name would send this: it would not.
bool names_this_machine(std::string host) {
  const size_t bracket = host.rfind(']');
  const size_t colon = host.find(':', bracket == std::string::npos ? 0 : bracket);
  host = host.substr(0, colon);
  return host == "localhost" || is_loopback(host) || host == "[::1]";
}

}  // namespace

Service::Service(ServedEngine& engine, const ServerOptions& options)
    : options_(options),
      allowed_(roots_of(options)),
      images_(options.image_hosts),
      directory_(options.model_dir.empty()
                     ? nullptr
                     : std::make_unique<ModelDirectory>(engine, options.model_dir,
                                                        options.model_dir_interval)),
      names_(engine, base_name_of(options), options.base,
             [this](const std::string& name) { return directory_ && directory_->find(name); }),
      context_{.engine = engine,
               .options = options_,
               .names = names_,
               .allowed = allowed_,
               .images = images_},
      router_(join(answer_routes(context_), generate_routes(context_), variant_routes(context_),
                   info_routes(context_))) {
  context_.gauges = [this] {
    return ServerMetrics::Gauges{.connections = http_->n_connections(),
                                 .slow_readers = http_->n_slow_readers(),
                                 .open_answers = context_.open_answers,
                                 .draining = context_.draining};
  };
  reload_keys();
}

Service::~Service() {
  hurry();
  stop();
}

void Service::start() {
  workers_ =
      std::make_unique<Workers>(options_.n_workers, static_cast<size_t>(options_.max_queued_work));
  const HttpServerOptions http{.host = options_.host,
                               .port = options_.port,
                               .n_threads = options_.n_io_threads,
                               .tls_certificate = options_.tls_certificate,
                               .tls_key = options_.tls_key,
                               .limits = {.header_bytes = options_.header_bytes,
                                          .body_bytes = options_.body_bytes,
                                          .connections = options_.max_connections,
                                          .stream_buffer_bytes = options_.stream_buffer_bytes,
                                          .idle = options_.idle_timeout,
                                          .read = options_.read_timeout,
                                          .write = options_.write_timeout}};
  auto server = std::make_unique<HttpServer>(
      http, [this](HttpRequest request, std::shared_ptr<ResponseStream> out) {
        dispatch(std::move(request), std::move(out));
      });
  http_ = std::move(server);
  http_->open();
}

uint16_t Service::port() const {
  return http_->port();
}

void Service::reload_keys() {
  if (options_.keys_file.empty()) return;
  auto keys = std::make_shared<const Keys>(Keys::load(options_.keys_file));
  const std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

void Service::hurry() {
  const std::lock_guard lock(mutex_);
  hurried_ = true;
}

/// Nothing may hear of the engine any more when the connections' threads end.
void Service::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stopped_, true)) return;
  }
  if (!http_) return;
  context_.draining = true;
  http_->drain();
  const auto end = Clock::now() + options_.drain_timeout;
  const auto patient = [&] {
    const std::lock_guard lock(mutex_);
    return !hurried_ && Clock::now() < end;
  };
  while (http_->n_connections() > 0 && patient())
    http_->wait_drained(std::chrono::milliseconds(20));
  http_->close_all();
  workers_.reset();
  while (context_.open_answers > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  http_->join();
}

std::shared_ptr<const Caller> Service::authenticate(const HttpRequest& request,
                                                    const Route& route) const {
  static const auto kAnyone = std::make_shared<const Caller>();
  std::shared_ptr<const Keys> keys;
  {
    const std::lock_guard lock(mutex_);
    keys = keys_;
  }
  if (route.access == Access::kPublic) return kAnyone;
  if (!keys) {
    if (route.access != Access::kAdmin) return kAnyone;
    // Nobody has a key: this machine's users may administrate, and no web page that they look at.
    if (!is_loopback(request.remote) || !names_this_machine(request.host))
      throw ApiError(403, "without a keys file this is possible from the server's machine only");
    if (request.method != "GET" && !request.body.empty() &&
        !request.content_type.starts_with("application/json"))
      throw ApiError(403, "without a keys file the body must be sent as application/json");
    return kAnyone;
  }
  std::shared_ptr<const Caller> caller = keys->find(request.authorization);
  if (!caller)
    throw ApiError(401, request.authorization.empty()
                            ? "no API key was sent, expected \"Authorization: Bearer KEY\""
                            : "the API key is not known");
  if (route.access == Access::kAdmin && !caller->admin)
    throw ApiError(403, "this needs an administrator's key");
  return caller;
}

void Service::dispatch(HttpRequest request, std::shared_ptr<ResponseStream> stream) {
  auto record = std::make_shared<RequestRecord>();
  record->method = request.method;
  record->path = request.path;
  record->id = request.id;
  record->remote = request.remote;
  record->received = request.received;
  const auto finished = [this](const RequestRecord& r, const std::string& route) {
    context_.metrics.http_requests.add(
        {{"handler", route}, {"method", r.method}, {"status", std::to_string(r.status)}});
    if (options_.log_requests) spdlog::info(request_line(r, Clock::now(), options_.log_json));
  };
  const auto tracked = std::make_shared<TrackedStream>(std::move(stream), record, finished);
  Call call{
      .request = std::move(request), .rest = {}, .caller = {}, .record = record, .out = tracked};
  try {
    const Route& route = router_.find(call.request, call.rest);
    tracked->set_route(route.path);
    call.caller = authenticate(call.request, route);
    record->tenant = call.caller->tenant;
    if (!route.blocks) return run(route, call);
    if (context_.draining) throw ApiError(503, "the server is stopping").retry_after(5);
    const auto shared = std::make_shared<Call>(std::move(call));
    const bool taken = workers_->try_post([this, &route, shared] { run(route, *shared); });
    if (!taken) {
      context_.metrics.refused.add({{"reason", "workers"}});
      throw ApiError(429, "too many requests wait to be read").retry_after(1);
    }
  } catch (const ApiError& error) {  // `call` may have gone to a worker's closure
    tracked->send(error_response(error));
  } catch (const std::bad_alloc&) {
    tracked->send(error_response(ApiError(503, "out of memory")));
  }
}

void Service::run(const Route& route, Call& call) {
  try {
    route.handler(call);
  } catch (const ApiError& error) {
    fail(call, error);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kDevice) context_.engine_failed = true;
    fail(call, ApiError(error));
  } catch (const std::bad_alloc&) {
    fail(call, ApiError(503, "out of memory"));
  } catch (const std::exception& error) {
    spdlog::error(event_line(
        "bug", fmt::format("{} {}: {}", call.request.method, call.request.path, error.what()),
        options_.log_json));
    fail(call, ApiError(500, "the server has a bug; its log says more"));
  }
}

void Service::fail(Call& call, const ApiError& error) {
  call.out->send(error_response(error));
}

}  // namespace deltacome::server
