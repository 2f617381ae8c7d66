# SPDX-License-Identifier: Apache-2.0
"""LoRAX's Python client, unchanged. Skipped where it is not installed: pip install lorax-client -r
tests/requirements.txt, in an environment of its own, as it holds back packages that others need newer"""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedVariantTest  # noqa: E402
from support import PROMPT  # noqa: E402

try:
    import lorax
    from lorax.errors import NotFoundError, ValidationError
except ImportError:
    lorax = None


@unittest.skipIf(lorax is None, "the package lorax-client is not installed")
class LoraxTest(ServedVariantTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = lorax.Client(f"http://127.0.0.1:{cls.server.port}")
        cls.prompt = PROMPT.format(12, 7)

    def test_answers_are_those_of_completions(self):
        for adapter, model in ((None, "tiny-base"), ("math", "math")):
            want = self.server.complete(model)
            answer = self.client.generate(self.prompt, adapter_id=adapter, max_new_tokens=24,
                                          decoder_input_details=True, return_k_alternatives=2)
            self.assertEqual(answer.generated_text, want)
            details = answer.details
            self.assertEqual(len(details.prefill), details.prompt_tokens)
            self.assertIsNone(details.prefill[0].logprob)
            self.assertLess(details.prefill[1].logprob, 0)
            self.assertEqual(len(details.tokens), details.generated_tokens)
            for token in details.tokens:
                self.assertEqual(len(token.alternative_tokens), 2)
                self.assertAlmostEqual(token.logprob, token.alternative_tokens[0].logprob)  # greedy
            plain = "".join(token.text for token in details.tokens if not token.special)
            self.assertEqual(plain.strip(), want.strip())

    def test_streams_are_whole(self):
        want = self.server.complete("math")
        events = list(self.client.generate_stream(self.prompt, adapter_id="math", max_new_tokens=24))
        self.assertEqual("".join(event.token.text for event in events), want)
        self.assertEqual(events[-1].generated_text, want)
        self.assertGreater(events[-1].details.generated_tokens, 0)
        self.assertTrue(all(event.details is None for event in events[:-1]))

    def test_stops_sampling_and_forms(self):
        first = self.client.generate(self.prompt, adapter_id="math", max_new_tokens=24).generated_text
        word = first.split()[1]
        stopped = self.client.generate(self.prompt, adapter_id="math", max_new_tokens=24,
                                       stop_sequences=[word])
        self.assertEqual(stopped.details.finish_reason, "stop_sequence")
        self.assertLess(len(stopped.generated_text), len(first))
        seeded = [self.client.generate(self.prompt, do_sample=True, temperature=0.9, top_p=0.9, seed=7,
                                       max_new_tokens=8) for _ in range(2)]
        self.assertEqual(seeded[0].generated_text, seeded[1].generated_text)
        self.assertEqual(seeded[0].details.seed, 7)
        boolean = self.client.generate(self.prompt, max_new_tokens=8, response_format={
            "type": "json_object", "schema": {"type": "boolean"}})
        self.assertIn(boolean.generated_text, ("true", "false"))

    def test_errors(self):
        with self.assertRaises((NotFoundError, ValidationError)) as caught:
            self.client.generate(self.prompt, adapter_id="none")
        self.assertIn("`none` does not exist", str(caught.exception))
        with self.assertRaises(ValidationError):
            self.client.generate(self.prompt, typical_p=0.5)


if __name__ == "__main__":
    unittest.main()
