# SPDX-License-Identifier: Apache-2.0
"""`schemathesis` makes requests of all kinds from /openapi.json, fit and unfit, and compares the
responses with it. Skipped where it is not installed: pip install -r tests/clients/requirements.txt"""

import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import CliTest  # noqa: E402

TOOL = shutil.which("schemathesis", path=str(pathlib.Path(sys.executable).parent)) or shutil.which(
    "schemathesis")
# A body that fits the schema may have fields that exclude each other (stream_options without stream),
# name what does not exist, or ask for what no model does. Only this check is left out.
NOT_CHECKED = "positive_data_acceptance"
# Deadlines are part of the interface: a request may name one that nothing can hold, or ask for more than the server's allows.
CONFIG = """[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""


@unittest.skipIf(TOOL is None, "the package schemathesis is not installed")
class OpenApiTest(CliTest):
    def test_responses_are_those_that_are_described(self):
        # 128 answers to the end of the context may be asked for: they take longer than a test may.
        config = pathlib.Path(self.scratch) / "schemathesis.toml"
        config.write_text(CONFIG)
        with ServedProgram("--allow-root", self.scratch, "--request-timeout", "20") as server:
            done = subprocess.run(
                [TOOL, "--config-file", config, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--seed", "1",
                 "--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--checks", "all",
                 "--exclude-checks", NOT_CHECKED, "--request-timeout", "60", "--max-response-time", "60",
                 "--max-time", "150", "--continue-on-failure", "--wait-for-schema", "30", "--no-color"],
                capture_output=True, text=True, cwd=self.scratch)
            self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
            self.assertEqual(server.ask("GET", "/health")[0], 200)


if __name__ == "__main__":
    unittest.main()
