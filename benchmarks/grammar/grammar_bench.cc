// SPDX-License-Identifier: Apache-2.0
// Time of constrained decoding per token, on a vocabulary of 128k tokens.
//
//   grammar_bench [TIKTOKEN_FILE]
//
// Without a file the vocabulary is made up: all bytes, digits, JSON punctuation, and random words
// with and without a space before them. A file has a line "base64 rank" for each token.
//
// Each document is cut into the longest tokens and followed: mask, check, accept, as the engine
// does for each token. "prepared": a first document after the masks of the first states were made,
// as the engine makes them when a request is submitted. "first": a first document, nothing is
// known; "next": another document; "again": that one once more. Of a token's times in several
// rounds the least counts: other programs of the machine are not measured.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "grammar/compile.h"
#include "grammar/token_masks.h"

namespace deltacome::grammar {
namespace {

using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

std::vector<std::optional<std::string>> made_up_vocabulary(size_t n) {
  std::set<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.insert(std::string(1, static_cast<char>(b)));
  for (int i = 0; i < 1000; ++i) tokens.insert(fmt::format("{:03}", i));
  std::mt19937 rng(1);
  const auto pick = [&](std::string_view letters) { return letters[rng() % letters.size()]; };
  std::geometric_distribution<int> extra(0.25);
  const std::vector<std::string> characters = {"é", "ü", "я", "н", "の", "人", "\xF0\x9F\x98\x80"};
  while (tokens.size() < n) {
    std::string token;
    const auto kind = rng() % 100;
    if (kind < 3) {  // across the structure of JSON and code
      for (int i = extra(rng) + 1; i >= 0; --i) token += pick("\"\"{}[]:,\\ \n().;=<>/-_'");
    } else if (kind < 6) {  // parts of characters too
      for (int i = extra(rng) / 2; i >= 0; --i) token += characters[rng() % characters.size()];
      if (rng() % 3 == 0) token.resize(token.size() - 1);
    } else {
      if (rng() % 2 == 0) token += ' ';
      for (int i = 1 + extra(rng); i >= 0; --i) token += pick("eeeetaoinsrhldcumfpgwybvkxjqz");
      if (rng() % 10 == 0) token[token.size() - 1] = pick("ABCDEFGHIKLMNOPRSTUVW");
      if (rng() % 50 == 0) token += '"';
    }
    if (!token.empty()) tokens.insert(token);
  }
  return {tokens.begin(), tokens.end()};
}

std::vector<std::optional<std::string>> read_tiktoken(const char* path) {
  std::ifstream file(path);
  std::vector<std::optional<std::string>> out;
  std::string word, rank;
  while (file >> word >> rank) {
    std::string bytes;
    uint32_t bits = 0;
    int n_bits = 0;
    for (const char c : word) {
      constexpr std::string_view kDigits =
          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
      const size_t value = kDigits.find(c);
      if (value == std::string_view::npos) break;
      bits = bits << 6 | static_cast<uint32_t>(value);
      if ((n_bits += 6) >= 8) bytes += static_cast<char>(bits >> (n_bits -= 8) & 0xFF);
    }
    out.resize(std::max<size_t>(out.size(), std::stoul(rank) + 1));
    out[std::stoul(rank)] = bytes;
  }
  return out;
}

std::vector<TokenId> longest_tokens(const TokenSet& tokens, std::string_view text) {
  std::vector<TokenId> out;
  const TokenTrie& trie = tokens.trie();
  while (!text.empty()) {
    TokenTrie::Node node = 0;
    size_t best = 0;
    TokenId id = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto child = trie.child(node, static_cast<uint8_t>(text[i]));
      if (!child) break;
      node = *child;
      if (!trie.tokens(node).empty()) {
        best = i + 1;
        id = trie.tokens(node)[0];
      }
    }
    if (best == 0) {
      fmt::print(stderr, "a byte is no token\n");
      std::exit(1);
    }
    out.push_back(id);
    text.remove_prefix(best);
  }
  return out;
}

/// Microseconds of each token.
std::vector<double> follow(const std::shared_ptr<TokenMasks>& masks, std::string_view text) {
  std::vector<double> out;
  Matcher matcher(masks);
  for (const TokenId id : longest_tokens(masks->tokens(), text)) {
    const auto start = Clock::now();
    const bool allowed = has_bit(matcher.allowed(), id);
    const bool accepted = matcher.accept(id);
    out.push_back(us_since(start));
    if (!allowed || !accepted) {
      fmt::print(stderr, "token {} is not allowed in {}\n", id, text);
      std::exit(1);
    }
  }
  if (!matcher.may_end()) std::exit(1);
  return out;
}

struct Work {
  const char* name;
  Automaton (*compile)();
  std::vector<std::string> documents;
};

const char* const kPerson = R"({"type":"object","properties":{
  "name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
  "email":{"type":"string","format":"email"},
  "tags":{"type":"array","items":{"type":"string","maxLength":40},"maxItems":10},
  "address":{"type":"object","properties":{"street":{"type":"string","maxLength":200},
    "city":{"type":"string"},"zip":{"type":"string","pattern":"^[0-9]{5}$"}},
    "required":["street","city","zip"],"additionalProperties":false},
  "kind":{"enum":["customer","supplier","both"]},"score":{"type":"number"}},
  "required":["name","age","address","kind"],"additionalProperties":false})";

const char* const kTree = R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
  "value":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},
  "required":["value","children"]}}})";

std::vector<Work> all_work() {
  return {
      {"person",
       [] { return compile_json_schema(kPerson); },
       {R"({"name": "Ada Lovelace", "age": 36, "email": "ada.l@example.org", "tags": ["math", )"
        R"("poetical science", "engines"], "address": {"street": "12 St James's Square", "city": )"
        R"("London", "zip": "10115"}, "kind": "customer", "score": 9.75})",
        R"({"name":"José García","age":7,"tags":["niño"],"address":{"street":"Calle \"Sol\" 3",)"
        R"("city":"Sevilla","zip":"41001"},"kind":"both"})"}},
      {"tree",
       [] { return compile_json_schema(kTree); },
       {R"({"value": "root of it all", "children": [{"value": "left", "children": []}, {"value": )"
        R"("right, with more below", "children": [{"value": "leaf", "children": []}]}]})",
        R"({"value":"a","children":[{"value":"b","children":[{"value":"c","children":[{"value":"d",)"
        R"("children":[]}]}]}]})"}},
      {"json_object",
       [] { return compile_json_object(); },
       {R"({"title": "A list of things", "items": [1, 2.5, true, null, {"nested": {"deeply": )"
        R"(["yes", "no"]}}], "escaped": "tab\t and \u00e9", "done": false})",
        "{\n  \"a\": [\n    {\n      \"b\": \"text that is somewhat longer than the others\"\n    "
        "}\n"
        "  ],\n  \"c\": 3\n}"}},
      {"tool call",
       [] {
         return compile_tool_calls(
             {.tools = {{"get_weather", R"({"type":"object","properties":{"city":{"type":"string"},
                          "days":{"type":"integer"}},"required":["city"]})"},
                        {"search", R"({"type":"object","properties":{"query":{"type":"string"}},
                          "required":["query"]})"}},
              .begin = "<tool_call>\n",
              .end = "\n</tool_call>"});
       },
       {"<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"New York\", "
        "\"days\": "
        "3}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"how to measure "
        "time\"}}\n</tool_call>"}},
      {"regex",
       [] { return compile_regex("[A-Z][a-z]+(, [A-Z][a-z]+)*: \\d{1,3}\\.\\d %"); },
       {"Apples, Pears, Plums: 12.5 %", "Oranges: 99.0 %"}},
  };
}

void keep_least(std::vector<double>& least, const std::vector<double>& times) {
  if (least.empty()) least = times;
  for (size_t i = 0; i < times.size(); ++i) least[i] = std::min(least[i], times[i]);
}

void print_times(const char* what, std::vector<double> us) {
  double sum = 0;
  for (const double x : us) sum += x;
  std::ranges::sort(us);
  fmt::print(
      "  {:<8} {:>4} tokens, us a token: mean {:7.2f}, median {:6.2f}, p99 {:8.2f}, max {:8.2f}\n",
      what, us.size(), sum / static_cast<double>(us.size()), us[us.size() / 2],
      us[us.size() * 99 / 100], us.back());
}

int run(int argc, char** argv) {
  auto start = Clock::now();
  auto vocabulary = argc > 1 ? read_tiktoken(argv[1]) : made_up_vocabulary(128'000);
  fmt::print("{} tokens ({})\n", vocabulary.size(), argc > 1 ? "from a file" : "made up");
  start = Clock::now();
  const auto tokens = std::make_shared<const TokenSet>(std::move(vocabulary), false);
  fmt::print("token set: {:.1f} ms, {:.1f} MiB; {} and {} nodes\n", us_since(start) / 1e3,
             static_cast<double>(tokens->bytes()) / (1 << 20), tokens->trie().n_nodes(),
             tokens->special_trie().n_nodes());
  std::vector<double> apply[2];
  for (int round = 0; round < 20; ++round) {
    for (const size_t wide : {0u, 1u}) {
      std::vector<float> logits(tokens->size(), 1.0f);
      const auto plain = tokens->plain_mask(TokenTrie::kNotPlain);
      Mask mask(plain.begin(), plain.end());
      for (size_t i = 0; i < mask.size() && wide == 0; ++i) mask[i] = i % 16 == 0 ? 1u << 7 : 0;
      start = Clock::now();
      allow_only(logits, mask, {});
      keep_least(apply[wide], {us_since(start)});
    }
  }
  fmt::print("a mask on the logits, us: {:.1f} of structure, {:.1f} of a string\n", apply[0][0],
             apply[1][0]);
  for (const Work& work : all_work()) {
    start = Clock::now();
    const auto automaton = std::make_shared<const Automaton>(work.compile());
    fmt::print("{}: compiled in {:.2f} ms, {} states, {:.0f} KiB\n", work.name,
               us_since(start) / 1e3, automaton->n_states(),
               static_cast<double>(automaton->bytes()) / 1024);
    std::shared_ptr<TokenMasks> masks;
    std::vector<double> prepare, prepared, first, next, again;
    for (int round = 0; round < 7; ++round) {
      masks = std::make_shared<TokenMasks>(automaton, tokens);
      start = Clock::now();
      masks->prepare(256);
      keep_least(prepare, {us_since(start)});
      keep_least(prepared, follow(masks, work.documents[0]));
      masks = std::make_shared<TokenMasks>(automaton, tokens);
      keep_least(first, follow(masks, work.documents[0]));
      keep_least(next, follow(masks, work.documents[1]));
      keep_least(again, follow(masks, work.documents[1]));
    }
    fmt::print("  prepared in {:.2f} ms\n", prepare[0] / 1e3);
    print_times("prepared", prepared);
    print_times("first", first);
    print_times("next", next);
    print_times("again", again);
    fmt::print("  masks: {:.1f} MiB\n", static_cast<double>(masks->bytes()) / (1 << 20));
  }
  return 0;
}

}  // namespace
}  // namespace deltacome::grammar

int main(int argc, char** argv) {
  return deltacome::grammar::run(argc, argv);
}
