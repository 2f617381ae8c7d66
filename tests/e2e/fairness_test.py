# SPDX-License-Identifier: Apache-2.0
"""What tenants of a server notice of each other, by HTTP alone."""

import concurrent.futures
import hashlib
import json
import re
import threading
import unittest

from serve_test import ServedProgram
from support import PROMPT, CliTest

SEATS = 3  # answers computed at once
KEYS = {"heavy": 1, "light": 1, "double": 2}  # tenant: weight


class FairnessTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        keys = cls.scratch / "keys.json"
        keys.write_text(json.dumps({"keys": [
            {"name": name, "weight": weight, "sha256": hashlib.sha256(name.encode()).hexdigest()}
            for name, weight in KEYS.items()]}))
        cls.server = ServedProgram("--keys", keys, "--max-sequences", SEATS)
        cls.addClassCleanup(cls.server.__exit__)

    def setUp(self):
        self.ended, self.lock = [], threading.Lock()  # tenants, as their answers ended

    def ask(self, tenant, n_tokens):
        status, said = self.server.ask("POST", "/v1/completions", {
            "prompt": PROMPT.format(12, 7), "max_tokens": n_tokens, "ignore_eos": True}, tenant)
        with self.lock:
            self.ended.append(tenant)
        self.assertEqual((status, said["usage"]["completion_tokens"]), (200, n_tokens))

    def tokens(self, tenant):
        _, metrics = self.server.ask("GET", "/metrics")
        found = re.search(rf'tenant_tokens_total{{tenant="{tenant}",kind="generation"}} (\d+)', metrics)
        return int(found.group(1)) if found else 0

    def test_a_queue_of_one_tenant_does_not_delay_another(self):
        n_heavy = 40
        with concurrent.futures.ThreadPoolExecutor(n_heavy) as pool:
            flood = [pool.submit(self.ask, "heavy", 200) for _ in range(n_heavy)]
            self.server.wait_for(lambda: self.ended)  # the queue is there, and it moves
            for _ in range(3):
                before = len(self.ended)
                self.ask("light", 20)
                # Of the heavy tenant only what had seats already may have come in between, and what
                # took those seats after it; all 40 would have if there were one queue.
                self.assertLessEqual(len(self.ended) - before - 1, 2 * SEATS)
            for answer in flood:
                answer.result()
        self.assertEqual(self.tokens("light"), 3 * 20)

    def test_shares_are_those_of_the_weights(self):
        n_each, n_tokens = 45, 40
        with concurrent.futures.ThreadPoolExecutor(2 * n_each) as pool:
            jobs = [pool.submit(self.ask, tenant, n_tokens)
                    for _ in range(n_each) for tenant in ("heavy", "double")]
            for job in jobs:
                job.result()
        # While both had waiting requests: until the last of the first that is through.
        of_double = [i for i, tenant in enumerate(self.ended) if tenant == "double"]
        both = self.ended[:of_double[-1] - SEATS]
        n_double, n_heavy = both.count("double"), both.count("heavy")
        self.assertGreater(n_double, 1.5 * n_heavy, self.ended)
        self.assertLess(n_double, 2.7 * n_heavy, self.ended)


if __name__ == "__main__":
    unittest.main()
