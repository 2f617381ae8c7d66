#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares ChatTemplate with the jinja2 package, configured as transformers configures it.

Usage: chat_template_equality.py PATH_OF_render_template [-v]
Renders every template of tests/data/templates with many conversations, and the snippets of
chat_template_snippets.py, with both programs. The texts must be equal; where jinja2 raises, the
program must give an error. Prints counts; exits with 1 on any difference.
"""
import argparse
import datetime
import itertools
import json
import pathlib
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chat_template_snippets import CONTEXT, UNSUPPORTED, snippets

TEMPLATES = pathlib.Path(__file__).resolve().parents[1] / "data" / "templates"
UNSUPPORTED_CODE = 2  # ErrorCode::kUnsupported


class Generation(jinja2.ext.Extension):
    """{% generation %}, which passes its body through unless a trainer tracks it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    @staticmethod
    def _pass(caller):
        return caller()


def reference_environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return env


def conversations():
    """Lists of messages, valid and not."""
    user = lambda text: {"role": "user", "content": text}
    bot = lambda text: {"role": "assistant", "content": text}
    system = lambda text: {"role": "system", "content": text}
    call = lambda name, arguments, **more: {
        "id": "call12345", "type": "function",
        "function": {"name": name, "arguments": arguments}, **more}
    tool = lambda content, **more: {
        "role": "tool", "content": content, "tool_call_id": "call12345", "name": "f", **more}
    calling = lambda *calls, content="": {
        "role": "assistant", "content": content, "tool_calls": list(calls)}
    texts = ["Hi", "", "  padded \n", "Grüße, 世界 🌍!", "a\n\nb\tc", "<|im_end|>{{ x }}{% if %}",
             'quotes " and \' and \\ back', "</think>", "<think>\nhm\n</think>\n\nyes",
             "<tool_response>r</tool_response>", "nbsp\u00a0 em\u2003", "\u0000\u0007 control"]
    for text in texts:
        yield [user(text)]
        yield [system(text), user("q")]
        yield [user("q"), bot(text)]
        yield [system("s"), user(text), bot(text), user("again")]
    yield [user("a"), bot("b"), user("c"), bot("d"), user("e"), bot("f")]
    yield [system("s"), user("a"), bot("b"), user("c"), bot("d"), user("e")]
    # What templates refuse.
    yield []
    yield [bot("first")]
    yield [user("a"), user("b")]
    yield [user("a"), bot("b"), bot("c")]
    yield [user("a"), system("late"), user("b")]
    yield [system("only")]
    yield [system("s"), system("t"), user("a")]
    yield [{"role": "critic", "content": "x"}]
    yield [{"role": "user"}]
    yield [{"content": "no role"}]
    yield [user(None)]
    yield [user(7)]
    yield [{"role": "user", "content": [{"type": "text", "text": "part"}]}]
    yield [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"},
                                        {"type": "image"}]}, bot("a cat")]
    # Tools.
    weather = call("weather", {"city": "Köln", "days": 3, "units": None, "ok": True, "t": 1.5})
    text_call = call("f", {"x": "1", "y": "two"})
    yield [user("weather?"), calling(weather)]
    yield [user("weather?"), calling(weather), tool("sunny")]
    yield [user("weather?"), calling(weather), tool("sunny"), bot("It is sunny."), user("thanks")]
    yield [user("weather?"), calling(weather, content="let me see"), tool("sunny"), tool("rain")]
    yield [user("w"), calling(weather, text_call), tool("1"), tool("2"), bot("x")]
    yield [user("w"), calling(text_call), tool({"content": "nested"}), bot("x")]
    yield [user("w"), calling(text_call), tool({"a": [1, {"b": None}]})]
    yield [user("w"), calling(text_call), tool(["x", 2, 3.25])]
    yield [user("w"), calling(text_call), tool(12), bot("x")]
    yield [user("w"), calling(call("f", '{"as": "text"}')), tool("ok")]
    yield [user("w"), calling(call("f", {}, id="short")), tool("ok", tool_call_id="short")]
    yield [user("w"), calling({"name": "bare", "arguments": {"k": [1, 2]}}), tool("ok")]
    yield [user("w"), calling(call("brave_search", {"query": "x"})), tool("ok")]
    yield [user("w"), {"role": "assistant", "tool_calls": [text_call]}, tool("ok")]
    yield [user("w"), {"role": "assistant", "content": None, "tool_calls": [text_call]}, tool("")]
    yield [user("w"), {"role": "assistant", "content": "c", "tool_calls": None}]
    yield [user("w"), {"role": "assistant", "content": "c", "tool_calls": []}, user("d")]
    yield [user("w"), {"role": "ipython", "content": "out"}, bot("x")]
    yield [user("w"), {"role": "assistant", "content": "c", "reasoning_content": "\nbecause\n"}]
    yield [user("w"), bot("<think>\nx\n</think>\n\ny"), user("z"), bot("<think>1</think>2")]


TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "Gives the weather of a city, 'now' or \"later\".",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Name, e.g. Zürich"},
            "days": {"type": ["integer", "null"], "description": " how many ", "minimum": 0.5},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "t"},
            "extra": {"type": "object", "description": "d",
                      "additionalProperties": {"type": "number"}}},
            "required": ["city"]},
        "return": {"type": "boolean"}}},
    {"type": "function", "function": {
        "name": "nothing", "description": "Does nothing.",
        "parameters": {"type": "object", "properties": {}}}},
]

OPTIONS = [
    {},
    {"tools": None, "documents": None},
    {"tools": TOOLS},
    {"tools": TOOLS[1:], "enable_thinking": False, "date_string": "1 Jan 2025"},
    {"tools": [], "enable_thinking": True},
    {"tools": TOOLS, "tools_in_user_message": False, "builtin_tools": ["brave_search",
                                                                      "code_interpreter"]},
    {"tools": None, "builtin_tools": ["code_interpreter", "wolfram_alpha"]},
]


def model_cases():
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    for path in sorted(TEMPLATES.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for messages, options, prompt in itertools.product(
                list(conversations()), OPTIONS, [True, False]):
            yield path.name, source, {**tokens, "messages": messages, **options,
                                      "add_generation_prompt": prompt}


def render_reference(env, cache, source, context):
    try:
        if source not in cache:
            cache[source] = env.from_string(source)
        return cache[source].render(**json.loads(json.dumps(context))), None
    except Exception as e:  # whatever Python raises is a refusal
        return None, f"{type(e).__name__}: {e}"


def run_program(program, cases):
    lines = "".join(json.dumps({"template": s, "context": c}) + "\n" for _, s, c in cases)
    result = subprocess.run([program], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in result.stdout.decode().splitlines()]
    if len(answers) != len(cases):
        sys.exit(f"{program} answered {len(answers)} of {len(cases)} cases")
    return answers


def check(title, cases, program, verbose):
    env, cache = reference_environment(), {}
    n_equal = n_refused = n_bad = 0
    for (name, source, context), answer in zip(cases, run_program(program, cases)):
        text, error = render_reference(env, cache, source, context)
        if text is None and "error" in answer:
            n_refused += 1
        elif text is not None and answer.get("ok") == text:
            n_equal += 1
        else:
            n_bad += 1
            if verbose or n_bad <= 20:
                print(f"DIFFERENCE {name}: {source!r}" if len(source) < 300 else
                      f"DIFFERENCE {name} {json.dumps(context, ensure_ascii=False)[:400]}")
                print(f"  jinja2: {text!r} {error or ''}\n  ours:   {answer!r}")
    print(f"{title}: {len(cases)} cases, {n_equal} equal texts, {n_refused} refused by both, "
          f"{n_bad} differences")
    return n_bad


def check_unsupported(program):
    cases = [("unsupported", source, CONTEXT) for source, _ in UNSUPPORTED]
    n_bad = 0
    for (source, part), answer in zip(UNSUPPORTED, run_program(program, cases)):
        if answer.get("code") != UNSUPPORTED_CODE or part not in answer["error"]:
            n_bad += 1
            print(f"DIFFERENCE unsupported {source!r}: {answer!r} does not name {part!r}")
    print(f"unsupported: {len(cases)} cases, {len(cases) - n_bad} named, {n_bad} differences")
    return n_bad


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("-v", "--verbose", action="store_true", help="print all differences")
    args = parser.parse_args()
    n_templates = len(list(TEMPLATES.glob("*.jinja")))
    n_bad = check(f"{n_templates} templates", list(model_cases()), args.program, args.verbose)
    n_bad += check("snippets", list(snippets()), args.program, args.verbose)
    n_bad += check_unsupported(args.program)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
