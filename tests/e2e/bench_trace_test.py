# SPDX-License-Identifier: Apache-2.0
"""`bench trace`: made-up traffic through the engine."""

import unittest

from support import BASE, CliTest


def brief(low=4, high=40):
    return ("--base", BASE, "--threads", 2, "--duration", 1, "--rate", 20, "--input-low", low, "--input-high", high,
            "--output-low", 2, "--output-high", 12, "--kv-gib", 0.05, "--max-sequences", 8, "--step-tokens", 64)


class BenchTrace(CliTest):
    def test_every_request_is_answered_and_counted(self):
        archive = self.compress("trace", method="bitdelta")
        report = self.json("bench", "trace", *brief(33), "--delta", archive, "--variants", 3, "--popularity", "zipf:1",
                           "--tenants", 2, "--shared-prefix", 32)
        self.assertGreater(report["requests"], 5)
        self.assertEqual(report["finished"], report["requests"])
        self.assertEqual((report["refused"], report["failed"]), (0, 0))
        self.assertEqual((report["variants"], report["loads"]), (3, 3))
        for name in ("time_to_first_token_s", "time_between_tokens_s", "latency_s"):
            figures = report[name]
            self.assertLessEqual(0, figures["p50"])
            self.assertLessEqual(figures["p50"], figures["p90"])
            self.assertLessEqual(figures["p99"], figures["max"])
        self.assertLessEqual(report["fairness_jain"], 1)
        self.assertGreater(report["prefix_hit_rate"], 0)
        self.assertIn("(i + 1)^-S", report["popularity"])

    def test_a_flood_is_one_more_tenant(self):
        report = self.json("bench", "trace", *brief(), "--flood", 20)
        self.assertEqual(report["flood"], 20)
        self.assertEqual(report["finished"], report["requests"])
        self.assertGreater(report["neighbour_output_tokens"], 20)
        report = self.json("bench", "trace", *brief(), "--neighbour", 3)
        self.assertEqual(report["finished"], report["requests"])
        self.assertGreater(report["neighbour_output_tokens"], 20)
        self.ok("bench", "trace", *brief())

    def test_a_variant_is_loaded_over_and_over(self):
        archive = self.compress("reloaded", method="bitdelta")
        report = self.json("bench", "trace", *brief(), "--delta", archive, "--reload", archive)
        self.assertEqual(report["finished"], report["requests"])
        self.assertGreater(report["loads"], 2)
        self.assertLessEqual(report["load_s"]["p50"], report["load_s"]["max"])
        self.fails("bench", "trace", *brief(), "--reload", self.scratch / "none", says=["none"])

    def test_wrong_options_are_named(self):
        self.fails("bench", "trace", *brief(), "--popularity", "zipf", says=["zipf:S"], status=2)
        self.fails("bench", "trace", *brief(4, 4), says=["empty"], status=2)


if __name__ == "__main__":
    unittest.main()
