// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "server/api.h"

namespace deltacome::server {
namespace {

/// What to load, however it was asked for.
struct LoadRequest {
  std::string name, path;
  LoadOptions options;
  const char* name_field = "name";
};

std::optional<VariantStatus> find_status(const ApiContext& context, const std::string& name) {
  for (VariantStatus& status : context.engine.variants())
    if (status.name == name) return std::move(status);
  return std::nullopt;
}

VariantStatus need_status(const ApiContext& context, const std::string& name) {
  std::optional<VariantStatus> found = find_status(context, name);
  if (!found)
    throw ApiError(404, fmt::format("the variant {} does not exist", describe(Json(name))), "name");
  return *std::move(found);
}

/// A response that the engine's delivery thread will give.
struct Pending {
  Pending(ApiContext& context, std::shared_ptr<ResponseStream> stream)
      : count(context), out(std::move(stream)) {}
  OpenCount count;
  std::shared_ptr<ResponseStream> out;  // null: nobody waits
};

/// Tells the outcome of a load when it is known. `answer` makes the response.
void start_load(ApiContext& context, const Call& call, const LoadRequest& load,
                const std::function<HttpResponse()>& answer, bool wait) {
  check_variant_name(load.name, load.name_field);
  if (load.name == context.names.base_name())
    throw ApiError(400, fmt::format("{} is the base's name", describe(Json(load.name))),
                   load.name_field);
  const std::filesystem::path real = context.allowed.resolve(load.path);
  const auto pending = std::make_shared<Pending>(context, wait ? call.out : nullptr);
  const auto began = Clock::now();
  const auto done = [&context, pending, answer, began](const Error* error) {
    context.metrics.load_seconds.observe(
        std::chrono::duration<double>(Clock::now() - began).count());
    if (pending->out)
      pending->out->send(error == nullptr ? answer() : error_response(ApiError(*error)));
  };
  context.engine.start_load(load.name, real, load.options, done);
  if (!wait) call.out->send(answer());
}

HttpResponse plain(std::string text) {
  return {.content_type = "text/plain; charset=utf-8", .body = std::move(text)};
}

// vLLM's endpoints, with its words.

void load_adapter(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const Fields fields(json);
  // Both pairs of names, so that controllers for either work.
  const auto either = [&](const char* first, const char* second) {
    const auto value = fields.string(first);
    return value ? *value : fields.string(second).value_or("");
  };
  LoadRequest load{.name = either("lora_name", "delta_name"),
                   .path = either("lora_path", "delta_path"),
                   .options = {},
                   .name_field = fields.has("lora_name") ? "lora_name" : "delta_name"};
  if (load.name.empty() || load.path.empty())
    throw ApiError(400, "Both 'lora_name' and 'lora_path' must be provided.")
        .with_type("InvalidUserInput");
  load.options.replace = fields.boolean("load_inplace").value_or(false);
  load.options.pinned = fields.boolean("pinned").value_or(false);
  if (!load.options.replace && find_status(context, load.name))
    throw ApiError(400, fmt::format("The lora adapter '{}' has already been loaded. If you want to "
                                    "load the adapter in place, set 'load_inplace' to True.",
                                    load.name))
        .with_type("InvalidUserInput");
  const std::string said = fmt::format("Success: LoRA adapter '{}' added successfully.", load.name);
  start_load(
      context, call, load, [said] { return plain(said); }, true);
}

/// Ends when the last request of the variant has ended.
void start_unload(ApiContext& context, const Call& call, const std::string& name, UnloadMode mode,
                  HttpResponse answer) {
  const auto pending = std::make_shared<Pending>(context, call.out);
  const auto done = [pending, answer = std::move(answer)](const Error* error) {
    pending->out->send(error == nullptr ? answer : error_response(ApiError(*error)));
  };
  context.engine.start_unload(name, mode, done);
}

void unload_adapter(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const Fields fields(json);
  const auto lora = fields.string("lora_name");
  const std::string name = lora ? *lora : fields.string("delta_name").value_or("");
  if (name.empty())
    throw ApiError(400, "'lora_name' needs to be provided to unload a LoRA adapter.")
        .with_type("InvalidUserInput");
  if (!find_status(context, name))
    throw ApiError(404, fmt::format("The lora adapter '{}' cannot be found.", name));
  start_unload(context, call, name, UnloadMode::kDrain,
               plain(fmt::format("Success: LoRA adapter '{}' removed successfully.", name)));
}

// Our own.

void list_deltas(ApiContext& context, Call& call) {
  Json data = Json::array();
  for (const VariantStatus& status : context.engine.variants())
    data.push_back(context.names.status_json(status));
  send_json(call, {{"object", "list"}, {"data", std::move(data)}});
}

void load_delta(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const Fields fields(json);
  LoadRequest load{
      .name = fields.need_string("name"), .path = fields.need_string("path"), .options = {}};
  load.options.pinned = fields.boolean("pinned").value_or(false);
  load.options.replace = fields.boolean("replace").value_or(false);
  load.options.lazy = fields.boolean("lazy").value_or(false);
  const bool wait = fields.boolean("wait").value_or(true);
  if (!load.options.replace && find_status(context, load.name))
    throw ApiError(409,
                   fmt::format("the variant {} exists, expected \"replace\": true to take its "
                               "place",
                               describe(Json(load.name))),
                   "name");
  const auto answer = [&context, name = load.name, wait] {
    const std::optional<VariantStatus> status = find_status(context, name);
    return HttpResponse{.status = wait ? 200 : 202,
                        .body = to_text(status ? context.names.status_json(*status) : Json())};
  };
  start_load(context, call, load, answer, wait);
}

void change_delta(ApiContext& context, Call& call) {
  const Json json = body_of(call);
  const std::optional<bool> pinned = Fields(json).boolean("pinned");
  if (!pinned) throw ApiError(400, "\"pinned\" is missing, expected true or false", "pinned");
  need_status(context, call.rest);
  context.engine.set_pinned(call.rest, *pinned);
  send_json(call, context.names.status_json(need_status(context, call.rest)));
}

void unload_delta(ApiContext& context, Call& call) {
  need_status(context, call.rest);
  const std::string& query = call.request.query;
  if (!query.empty() && query != "mode=drain" && query != "mode=refuse")
    throw ApiError(400, "the query is not known, expected mode=drain or mode=refuse", "mode");
  const Json said = {{"name", call.rest}, {"deleted", true}};
  start_unload(context, call, call.rest,
               query == "mode=refuse" ? UnloadMode::kRefuse : UnloadMode::kDrain,
               {.body = to_text(said)});
}

}  // namespace

std::vector<Route> variant_routes(ApiContext& context) {
  const auto route = [&](const char* method, const char* path,
                         void (*handler)(ApiContext&, Call&)) {
    return Route{.method = method,
                 .path = path,
                 .access = Access::kAdmin,
                 .handler = [&context, handler](Call& call) { handler(context, call); }};
  };
  const auto show = [](ApiContext& c, Call& call) {
    send_json(call, c.names.status_json(need_status(c, call.rest)));
  };
  std::vector<Route> out = {
      route("GET", "/v1/deltas", list_deltas),
      route("POST", "/v1/deltas", load_delta),
      route("GET", "/v1/deltas/*", show),
      route("PATCH", "/v1/deltas/*", change_delta),
      route("DELETE", "/v1/deltas/*", unload_delta),
  };
  for (const char* path : {"/v1/load_lora_adapter", "/v1/load_delta", "/load_lora_adapter"})
    out.push_back(route("POST", path, load_adapter));
  for (const char* path : {"/v1/unload_lora_adapter", "/v1/unload_delta", "/unload_lora_adapter"})
    out.push_back(route("POST", path, unload_adapter));
  return out;
}

}  // namespace deltacome::server
