# SPDX-License-Identifier: Apache-2.0
"""`curl` against the running program. Skipped where there is none."""

import json
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import CliTest  # noqa: E402


@unittest.skipIf(shutil.which("curl") is None, "there is no curl")
class CurlTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = ServedProgram()
        cls.addClassCleanup(cls.server.__exit__)

    def curl(self, path, *options, body=None, stdin=None):
        """Status and body."""
        command = ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out",
                   "\n%{http_code}", f"http://127.0.0.1:{self.server.port}{path}", *options]
        if body is not None:
            command += ["--data", json.dumps(body), "--header",
                        "Content-Type: application/json"]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    def test_answers(self):
        status, text = self.curl("/v1/completions", body={"prompt": "x", "max_tokens": 3})
        self.assertEqual(status, 200)
        self.assertEqual(json.loads(text)["object"], "text_completion")

    def test_answers_to_http_1_0(self):
        status, text = self.curl("/v1/completions", "--http1.0", body={
            "prompt": "x", "max_tokens": 3, "stream": True})
        self.assertEqual(status, 200)
        self.assertTrue(text.endswith("data: [DONE]\n\n"), text[-40:])

    def test_streams_line_by_line(self):
        status, text = self.curl("/v1/chat/completions", "--no-buffer", body={
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": True})
        self.assertEqual(status, 200)
        lines = [line for line in text.split("\n") if line]
        self.assertTrue(all(line.startswith("data: ") for line in lines), lines)
        self.assertEqual(lines[-1], "data: [DONE]")

    def test_asks_before_it_sends_a_large_body(self):
        words = "word " * 400_000  # curl expects 100-continue from a MiB on
        status, text = self.curl("/tokenize", "--data-binary", "@-", "--header",
                                 "Content-Type: application/json", stdin=json.dumps(
                                     {"prompt": words}))
        self.assertEqual(status, 200)
        self.assertGreater(json.loads(text)["count"], 400_000)

    def test_heads_and_methods_that_do_not_fit(self):
        self.assertEqual(self.curl("/health", "--head")[0], 200)
        status, text = self.curl("/v1/completions")
        self.assertEqual(status, 405)
        self.assertEqual(json.loads(text)["error"]["code"], 405)
        self.assertEqual(self.curl("/none")[0], 404)


if __name__ == "__main__":
    unittest.main()
