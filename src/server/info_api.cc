// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <openssl/evp.h>

#include "server/api.h"
#include "server/embedded.h"

#include <array>
#include <fstream>

namespace deltacome::server {
namespace {

constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr const char* kChatTemplate = "chat_template.jinja";
constexpr size_t kMaxConfigBytes = 4u << 20;

void list_models(ApiContext& context, Call& call) {
  Json data = Json::array();
  const std::string& base = context.names.base_name();
  if (call.caller->may_use("", base)) data.push_back(context.names.base_card());
  for (const VariantStatus& status : context.engine.variants())
    if (call.caller->may_use(status.name, base)) data.push_back(context.names.card(status));
  send_json(call, {{"object", "list"}, {"data", std::move(data)}});
}

void show_model(ApiContext& context, Call& call) {
  const std::string variant = context.names.variant_of(call.rest);
  check_may_use(call, context.names, variant);
  if (variant.empty()) return send_json(call, context.names.base_card());
  for (const VariantStatus& status : context.engine.variants())
    if (status.name == variant) return send_json(call, context.names.card(status));
  VariantNames::fail_unknown(call.rest);
}

/// `model=NAME` of a query, or nothing.
std::string model_of(const std::string& query) {
  if (query.empty()) return "";
  std::string name;
  if (!query.starts_with("model=") || !percent_decode(query.substr(6), name))
    throw ApiError(400, "the query is not known, expected model=NAME", "model");
  return name;
}

std::string read_config(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxConfigBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file || file.bad() || !file.is_open())  // there may be more
    throw ApiError(500, fmt::format("{} cannot be read, or has more than {} bytes",
                                    path.filename().string(), kMaxConfigBytes));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

/// vLLM's /tokenizer_info: tokenizer_config.json, and the chat template if that is a file of its
/// own.
void tokenizer_info(ApiContext& context, Call& call) {
  const std::string variant = context.names.variant_of(model_of(call.request.query));
  check_may_use(call, context.names, variant);
  std::filesystem::path directory;
  context.names.with_variant(variant, [&] { directory = context.names.directory_of(variant); });
  std::error_code ignored;
  // Adapters may leave the tokenizer to their base.
  if (!std::filesystem::exists(directory / kTokenizerConfig, ignored))
    directory = context.names.directory_of("");
  if (!std::filesystem::exists(directory / kTokenizerConfig, ignored))
    throw ApiError(404, fmt::format("the model has no {}", kTokenizerConfig));
  // Sorted, since there may be thousands of added tokens; what is deeper than any such file is left
  // out, as printing recurses.
  using SortedJson = nlohmann::json;
  SortedJson info = SortedJson::parse(
      read_config(directory / kTokenizerConfig),
      [](int depth, SortedJson::parse_event_t, SortedJson&) { return depth <= 64; }, false);
  if (!info.is_object())
    throw ApiError(500, fmt::format("the model's {} is no JSON object", kTokenizerConfig));
  if (!info.contains("tokenizer_class")) info["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!info.contains("chat_template") &&
      std::filesystem::exists(directory / kChatTemplate, ignored))
    info["chat_template"] = read_config(directory / kChatTemplate);
  call.out->send({.body = info.dump(-1, ' ', false, SortedJson::error_handler_t::replace)});
}

void health(ApiContext& context, Call& call) {
  if (context.draining) throw ApiError(503, "the server is stopping").retry_after(5);
  if (context.engine_failed) throw ApiError(503, "the engine has failed");
  call.out->send({.content_type = "", .body = {}});
}

void metrics(ApiContext& context, Call& call) {
  call.out->send(
      {.content_type = "text/plain; version=0.0.4; charset=utf-8",
       .body = context.metrics.print(context.engine, context.names.base_name(), context.gauges())});
}

void debug_state(ApiContext& context, Call& call) {
  const EngineStats s = context.engine.stats();
  const ServerMetrics::Gauges gauges = context.gauges();
  Json variants = Json::array();
  for (const VariantStatus& status : context.engine.variants())
    variants.push_back(context.names.status_json(status));
  send_json(call, {{"device", context.engine.device()},
                   {"max_context", context.engine.max_context()},
                   {"engine",
                    {{"running", s.running},
                     {"waiting", s.waiting},
                     {"requests", s.requests},
                     {"steps", s.steps},
                     {"preemptions", s.preemptions},
                     {"kv_blocks", s.kv_blocks},
                     {"kv_blocks_in_use", s.kv_blocks_in_use},
                     {"kv_blocks_cached", s.kv_blocks_cached},
                     {"kv_bytes", s.kv_bytes},
                     {"variant_bytes", s.variant_bytes},
                     {"base_bytes", s.base_bytes},
                     {"loads", s.loads},
                     {"failed_loads", s.failed_loads},
                     {"evictions", s.evictions},
                     {"cancelled", s.cancelled},
                     {"expired", s.expired},
                     {"failed", s.failed}}},
                   {"server",
                    {{"connections", gauges.connections},
                     {"open_answers", gauges.open_answers},
                     {"slow_readers", gauges.slow_readers},
                     {"draining", gauges.draining}}},
                   {"tenants", context.tenants.running()},
                   {"variants", std::move(variants)}});
}

/// 'sha256-...' of what the page's one element `tag` holds: how a policy allows it.
std::string source_hash(std::string_view page, const std::string& tag) {
  const std::string open = "<" + tag + ">";
  const size_t begin = page.find(open) + open.size();
  const std::string_view text = page.substr(begin, page.find("</" + tag + ">", begin) - begin);
  std::array<unsigned char, 32> digest{};
  if (EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1)
    throw ApiError(500, "SHA-256 failed");
  std::array<unsigned char, 45> base64{};  // 44 letters and a null byte
  EVP_EncodeBlock(base64.data(), digest.data(), static_cast<int>(digest.size()));
  return fmt::format("'sha256-{}'", reinterpret_cast<const char*>(base64.data()));
}

/// Nothing but the page's own style and script, and requests to this server.
std::string page_policy() {
  return fmt::format(
      "default-src 'none'; style-src {}; script-src {}; img-src data:; connect-src 'self'; "
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
      "require-trusted-types-for 'script'",
      source_hash(embedded_page(), "style"), source_hash(embedded_page(), "script"));
}

void page(ApiContext&, Call& call) {
  static const std::string kPolicy = page_policy();
  call.out->send({.content_type = "text/html; charset=utf-8",
                  .headers = {{"Content-Security-Policy", kPolicy},
                              {"Cache-Control", "no-cache"},
                              {"X-Content-Type-Options", "nosniff"},
                              {"Referrer-Policy", "no-referrer"}},
                  .body = std::string(embedded_page())});
}

}  // namespace

std::vector<Route> info_routes(ApiContext& context) {
  const auto route = [&](const char* path, Access access, bool blocks,
                         void (*handler)(ApiContext&, Call&)) {
    return Route{.method = "GET",
                 .path = path,
                 .access = access,
                 .blocks = blocks,
                 .handler = [&context, handler](Call& call) { handler(context, call); }};
  };
  const auto version = [](ApiContext& c, Call& call) {
    send_json(call, {{"version", c.options.version}});
  };
  const auto openapi = [](ApiContext&, Call& call) {
    call.out->send({.body = std::string(embedded_openapi())});
  };
  return {
      route("/v1/models", Access::kInference, true, list_models),
      route("/v1/models/*", Access::kInference, true, show_model),
      route("/tokenizer_info", Access::kInference, true, tokenizer_info),
      route("/health", Access::kPublic, false, health),
      route("/ping", Access::kPublic, false, health),
      route("/version", Access::kPublic, false, version),
      route("/metrics", Access::kPublic, true, metrics),
      route("/openapi.json", Access::kPublic, false, openapi),
      route("/debug/state", Access::kAdmin, true, debug_state),
      route("/", Access::kPublic, false, page),
  };
}

Json body_of(const Call& call) {
  return parse_json_object(call.request.body);
}

void send_json(const Call& call, const Json& body, int status) {
  call.out->send({.status = status, .body = to_text(body)});
}

void check_may_use(const Call& call, const VariantNames& names, const std::string& variant) {
  if (!call.caller->may_use(variant, names.base_name()))
    VariantNames::fail_unknown(variant.empty() ? names.base_name() : variant);
}

}  // namespace deltacome::server
