# SPDX-License-Identifier: Apache-2.0
"""The `litellm` package, unchanged, against the running program. Skipped where it is not installed:
pip install -r tests/clients/requirements.txt"""

import json
import os
import pathlib
import sys
import unittest
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedVariantTest  # noqa: E402
from support import PROMPT  # noqa: E402

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network for prices
try:
    import litellm
except ImportError:
    litellm = None

CHAT = [{"role": "user", "content": "What is 3 + 4?"}]


@unittest.skipIf(litellm is None, "the package litellm is not installed")
class LiteLlmClientTest(ServedVariantTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        litellm.suppress_debug_info = True
        warnings.simplefilter("ignore")  # of its own use of pydantic
        cls.to = {"api_base": f"http://127.0.0.1:{cls.server.port}/v1", "api_key": "none",
                  "num_retries": 0}

    def test_chats_whole_and_streamed_are_equal(self):
        ask = dict(model="hosted_vllm/math", messages=CHAT, max_tokens=12, temperature=0, **self.to)
        whole = litellm.completion(**ask)
        chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(whole.choices[0].message.content, text)
        self.assertEqual(whole.usage.completion_tokens, 12)
        self.assertEqual(whole.choices[0].finish_reason, "length")

    def test_texts(self):
        prompt = PROMPT.format(3, 4)
        answer = litellm.text_completion(model="text-completion-openai/math", prompt=prompt,
                                         max_tokens=8, temperature=0, **self.to)
        want = self.server.complete("math", prompt=prompt, max_tokens=8)
        self.assertEqual(answer.choices[0].text, want)

    def test_a_tool_can_be_forced(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"],
            "additionalProperties": False}}}
        answer = litellm.completion(model="hosted_vllm/math", messages=CHAT, max_tokens=80,
                                    tools=[tool], tool_choice="required",
                                    parallel_tool_calls=False, **self.to)
        [call] = answer.choices[0].message.tool_calls
        self.assertEqual(call.function.name, "f")
        self.assertEqual(list(json.loads(call.function.arguments)), ["b"])

    def test_errors_have_the_clients_types(self):
        with self.assertRaises(litellm.NotFoundError) as raised:
            litellm.completion(model="hosted_vllm/none", messages=CHAT, **self.to)
        self.assertIn("The model `none` does not exist.", str(raised.exception))
        with self.assertRaises(litellm.BadRequestError) as raised:
            litellm.completion(model="hosted_vllm/math", messages=CHAT, temperature=-1, **self.to)
        self.assertIn("temperature", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
