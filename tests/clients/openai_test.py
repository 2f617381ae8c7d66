# SPDX-License-Identifier: Apache-2.0
"""The `openai` package, unchanged, against the running program. Skipped where it is not installed:
pip install -r tests/clients/requirements.txt"""

import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedVariantTest  # noqa: E402
from support import PROMPT  # noqa: E402

try:
    import openai
except ImportError:
    openai = None


@unittest.skipIf(openai is None, "the package openai is not installed")
class OpenAiClientTest(ServedVariantTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key="none",
                                   max_retries=0)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["tiny-base", "math"])
        self.assertEqual(self.client.models.retrieve("math").id, "math")

    def test_completions_whole_and_streamed_are_equal(self):
        ask = dict(model="math", prompt=PROMPT.format(3, 4), max_tokens=16, temperature=0)
        whole = self.client.completions.create(**ask, logprobs=2)
        text = "".join(chunk.choices[0].text for chunk in
                       self.client.completions.create(**ask, stream=True) if chunk.choices)
        self.assertEqual(whole.choices[0].text, text)
        self.assertEqual("".join(whole.choices[0].logprobs.tokens), text)
        self.assertEqual(whole.usage.completion_tokens, len(whole.choices[0].logprobs.tokens))

    def test_chats_with_usage_logprobs_and_n(self):
        messages = [{"role": "user", "content": "What is 3 + 4?"}]
        answer = self.client.chat.completions.create(
            model="math", messages=messages, max_tokens=6, n=2, seed=1, logprobs=True,
            top_logprobs=3)
        self.assertEqual(len(answer.choices), 2)
        for choice in answer.choices:
            self.assertEqual(choice.message.role, "assistant")
            for token in choice.logprobs.content:
                self.assertEqual(len(token.top_logprobs), 3)
        chunks = list(self.client.chat.completions.create(
            model="math", messages=messages, max_tokens=6, stream=True,
            stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)

    def test_tools_are_accepted(self):
        answer = self.client.chat.completions.create(
            model="math", messages=[{"role": "user", "content": "hi"}], max_tokens=4, tools=[
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
        self.assertIn(answer.choices[0].finish_reason, ("length", "stop", "tool_calls"))

    def test_a_schema_holds(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
                  "required": ["n", "ok"], "additionalProperties": False}
        answer = self.client.chat.completions.create(
            model="math", messages=[{"role": "user", "content": "2 + 3"}], max_tokens=60,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})
        if answer.choices[0].finish_reason == "stop":
            self.assertEqual(set(json.loads(answer.choices[0].message.content)), {"n", "ok"})
        else:
            self.assertTrue(answer.choices[0].message.content.startswith("{"))

    def test_a_tool_can_be_forced(self):
        answer = self.client.chat.completions.create(
            model="math", messages=[{"role": "user", "content": "hi"}], max_tokens=80,
            tool_choice={"type": "function", "function": {"name": "f"}}, tools=[
                {"type": "function", "function": {"name": "f", "parameters": {
                    "type": "object", "properties": {"b": {"type": "boolean"}},
                    "required": ["b"], "additionalProperties": False}}}])
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "f")
        self.assertIn(json.loads(call.function.arguments)["b"], (True, False))

    def test_errors_have_the_clients_types(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.client.completions.create(model="none", prompt="x")
        self.assertIn("The model `none` does not exist.", str(raised.exception))
        with self.assertRaises(openai.BadRequestError) as raised:
            self.client.completions.create(model="math", prompt="x", temperature=-1)
        self.assertIn("temperature", str(raised.exception))
        with self.assertRaises(openai.BadRequestError):
            self.client.embeddings.create(model="math", input="x")


if __name__ == "__main__":
    unittest.main()
