// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "image/data_uri.h"
#include "server/answer_request.h"

namespace deltacome::server {
namespace {

/// What stands for a picture in the prompts of models of the LLaVA form.
constexpr const char* kImageToken = "<image>";

/// Pictures of a request.
struct Images {
  const ImageSource& elsewhere;
  std::vector<std::string>& bytes;
  int n_fetched = 0;
};

/// The bytes of an image_url part.
std::string read_image(const Fields& part, Images& images) {
  const Json* image = part.object("image_url");
  const std::string where = part.path("image_url.url");
  if (image == nullptr) throw ApiError(400, fmt::format("\"{}\" is missing", where), where);
  const std::string url = Fields(*image, part.path("image_url")).need_string("url");
  const bool is_data = url.starts_with("data:");
  if (!is_data && !images.elsewhere)
    throw ApiError(400,
                   fmt::format("\"{}\" is no data URI (\"data:image/png;base64,...\"): the server "
                               "fetches nothing from elsewhere",
                               where),
                   where);
  if (!is_data && ++images.n_fetched > kMaxFetchedImages)
    throw ApiError(400,
                   fmt::format("\"{}\" is one more than {} pictures from elsewhere in a request",
                               where, kMaxFetchedImages),
                   where);
  try {
    return is_data ? decode_data_uri(url) : images.elsewhere(url);
  } catch (const Error& error) {
    throw ApiError(400, fmt::format("\"{}\": {}", where, error.what()), where);
  }
}

/// A content of parts as one text: templates expect texts. Pictures go to `images`.
std::string join_parts(const Json& parts, const std::string& where, Images& images) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fields part(parts[i], fmt::format("{}[{}]", where, i));
    const std::string type = part.string("type").value_or("text");
    if (i > 0) out += '\n';
    if (type == "image_url") {
      images.bytes.push_back(read_image(part, images));
      out += kImageToken;
    } else if (type == "text" || type == "input_text") {
      out += part.string("text").value_or("");
    } else if (type == "refusal") {
      out += part.string("refusal").value_or("");
    } else {
      throw ApiError(400,
                     fmt::format("\"{}\" is {}, expected \"text\" or \"image_url\"",
                                 part.path("type"), describe(Json(type))),
                     part.path("type"));
    }
  }
  return out;
}

/// Arguments come as JSON text; templates print them as objects.
Json tool_calls_for_template(const Json& calls, const std::string& where) {
  Json out = calls;
  for (size_t i = 0; i < out.size(); ++i) {
    const Fields call(calls[i], fmt::format("{}[{}]", where, i));
    (void)call.string("id");
    const Json* function = call.object("function");
    if (function == nullptr)
      throw ApiError(400,
                     fmt::format("\"{}\" is missing, expected an object", call.path("function")),
                     call.path("function"));
    const Fields inner(*function, call.path("function"));
    inner.need_string("name");
    const Json* arguments = inner.find("arguments");
    if (arguments != nullptr && arguments->is_string()) {
      const auto& text = arguments->get_ref<const std::string&>();
      if (text.empty()) {
        out[i]["function"]["arguments"] = Json::object();
        continue;
      }
      try {
        out[i]["function"]["arguments"] = parse_json_object(text);
      } catch (const ApiError&) {
        inner.fail("arguments", *arguments, "the text of a JSON object");
      }
    } else if (arguments != nullptr && !arguments->is_object()) {
      inner.fail("arguments", *arguments, "the text of a JSON object");
    }
  }
  return out;
}

Json read_messages(const Fields& fields, Images& images) {
  const Json* messages = fields.array("messages");
  if (messages == nullptr || messages->empty())
    throw ApiError(400, "\"messages\" is missing or empty, expected an array of messages",
                   "messages");
  Json out = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) {
    const Fields message((*messages)[i], fmt::format("messages[{}]", i));
    Json copy = (*messages)[i];
    message.need_string("role");
    for (const char* name : {"name", "tool_call_id"}) (void)message.string(name);
    const Json* content = message.find("content");
    const Json* calls = message.array("tool_calls");
    if (content == nullptr) {
      copy["content"] = "";  // as in vLLM
    } else if (content->is_array()) {
      copy["content"] = join_parts(*content, message.path("content"), images);
    } else if (!content->is_string()) {
      message.fail("content", *content, "text or an array of parts");
    }
    if (calls != nullptr && !calls->empty()) {
      copy["tool_calls"] = tool_calls_for_template(*calls, message.path("tool_calls"));
    } else {
      copy.erase("tool_calls");
    }
    out.push_back(std::move(copy));
  }
  return out;
}

std::vector<ToolForm> read_tools(const Json& tools) {
  std::vector<ToolForm> forms;
  for (size_t i = 0; i < tools.size(); ++i) {
    const Fields tool(tools[i], fmt::format("tools[{}]", i));
    if (tool.string("type").value_or("function") != "function")
      tool.fail("type", *tool.find("type"), "\"function\"");
    const Json* function = tool.object("function");
    if (function == nullptr)
      throw ApiError(400,
                     fmt::format("\"{}\" is missing, expected an object", tool.path("function")),
                     tool.path("function"));
    const Fields inner(*function, tool.path("function"));
    const Json* parameters = inner.object("parameters");
    forms.push_back({.name = inner.need_string("name"),
                     .parameters = parameters == nullptr ? "" : to_text(*parameters)});
  }
  return forms;
}

void read_tool_choice(const Fields& fields, AnswerRequest& out) {
  const Json* choice = fields.find("tool_choice");
  out.tool_choice = out.tools.empty() ? ToolChoice::kNone : ToolChoice::kAuto;
  if (choice == nullptr) return;
  const std::string expected =
      "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\"}}";
  if (choice->is_object()) {
    const Fields inner(*choice, "tool_choice");
    const Json* function = inner.object("function");
    if (function == nullptr) fields.fail("tool_choice", *choice, expected);
    const std::string name = Fields(*function, "tool_choice.function").need_string("name");
    std::erase_if(out.tools, [&](const ToolForm& tool) { return tool.name != name; });
    if (out.tools.empty())
      throw ApiError(
          400,
          fmt::format("\"tool_choice\" names {}, which is not in \"tools\"", describe(Json(name))),
          "tool_choice");
    out.tool_choice = ToolChoice::kNamed;
    return;
  }
  const std::string word = choice->is_string() ? choice->get<std::string>() : "";
  if (word == "none") {
    out.tool_choice = ToolChoice::kNone;
  } else if (word == "auto" || word == "required") {
    if (out.tools.empty())
      throw ApiError(400,
                     fmt::format("\"tool_choice\" is \"{}\", expected \"tools\" beside it", word),
                     "tool_choice");
    out.tool_choice = word == "auto" ? ToolChoice::kAuto : ToolChoice::kRequired;
  } else {
    fields.fail("tool_choice", *choice, expected);
  }
}

}  // namespace

AnswerRequest parse_chat(std::string_view body, const ImageSource& images) {
  const Json json = parse_json_object(body);
  const Fields fields(json);
  AnswerRequest out;
  out.chat = true;
  read_common(fields, out);
  if (out.best_of != out.n)
    throw ApiError(400, "\"best_of\" is not a field of chat completions", "best_of");
  if (fields.has("chat_template"))
    throw ApiError(400, "\"chat_template\" is not supported: each variant has its own",
                   "chat_template");
  if (fields.boolean("continue_final_message").value_or(false) ||
      fields.boolean("echo").value_or(false))
    throw ApiError(400, "\"continue_final_message\" and \"echo\" are not supported in chats",
                   "continue_final_message");
  Json context = Json::object();
  if (const Json* more = fields.object("chat_template_kwargs")) context = *more;
  Images all{images, out.engine.images};
  context["messages"] = read_messages(fields, all);
  if (out.prompt_logprobs && !out.engine.images.empty())
    throw ApiError(400, "\"prompt_logprobs\" is not supported beside pictures", "prompt_logprobs");
  const Json* tools = fields.array("tools");
  if (tools != nullptr) out.tools = read_tools(*tools);
  read_tool_choice(fields, out);
  if (out.must_call() && out.engine.constraint)
    throw ApiError(400,
                   "\"tool_choice\" and a format of the answer both constrain it, expected one",
                   "tool_choice");
  context["tools"] = out.tools.empty() || out.tool_choice == ToolChoice::kNone ? Json() : *tools;
  context["documents"] = fields.array("documents") != nullptr ? *fields.array("documents") : Json();
  context["add_generation_prompt"] = fields.boolean("add_generation_prompt").value_or(true);
  out.template_context = to_text(context);
  out.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (fields.boolean("logprobs").value_or(false)) {
    out.engine.logprobs = static_cast<int>(top.value_or(0));
  } else if (top.value_or(0) > 0) {
    throw ApiError(400, "\"top_logprobs\" is set, expected \"logprobs\": true beside it",
                   "top_logprobs");
  }
  return out;
}

}  // namespace deltacome::server
