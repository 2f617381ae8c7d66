# SPDX-License-Identifier: Apache-2.0
"""`bench`: steps of random models, and made-up traffic through the engine."""

import unittest

from support import BASE, FINETUNED, CliTest

SERVED = ("--base", BASE)


def brief(low=4, high=40, served=SERVED):
    return (*served, "--threads", 2, "--duration", 1, "--rate", 20, "--input-low", low, "--input-high", high,
            "--output-low", 2, "--output-high", 12, "--kv-gib", 0.05, "--max-sequences", 8, "--step-tokens", 64)


class BenchSteps(CliTest):
    def test_steps_are_measured_beside_their_base(self):
        report = self.json("bench", "decode", "--layers", 1, "--vocab", 256, "--variants", 3, "--batch", 2, "--context", 8,
                           "--repeats", 1, "--whole-models")
        entries = {e["name"]: e for e in report["entries"]}
        self.assertEqual(list(entries), ["base, 1 sequence", "base, 2 sequences", "base, 3 sequences", "1 variant, 1 sequence",
                                         "1 variant, 2 sequences", "3 variants, 1 sequence each",
                                         "3 whole models, 1 sequence each"])
        base, delta = report["weight_bytes"], report["delta_resident_bytes"]
        self.assertEqual(entries["3 variants, 1 sequence each"]["bytes"], base + 3 * delta)
        self.assertEqual(entries["3 whole models, 1 sequence each"]["bytes"], 3 * base)
        self.assertTrue(all(e["ms"] > 0 for e in report["entries"]))
        report = self.json("bench", "prefill", "--layers", 1, "--vocab", 256, "--prompt", 8, "--repeats", 1, "--delta", "vector")
        self.assertEqual([e["name"] for e in report["entries"]], ["base, 8 tokens", "1 variant, 8 tokens"])


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

    def test_whole_models_are_swapped(self):
        for slots in (1, 2):
            served = ("--merged", BASE, "--merged", FINETUNED, "--merged", BASE, "--slots", slots)
            report = self.json("bench", "trace", *brief(served=served))
            self.assertGreater(report["requests"], 5)
            self.assertEqual((report["finished"], report["failed"]), (report["requests"], 0))
            self.assertGreater(report["loads"], 0)
            self.assertIn(f"{slots} of 3 whole models", report["device"])
        self.fails("bench", "trace", *brief(served=("--merged", self.scratch / "none")), says=["none"])

    def test_the_highest_rate_lies_between_one_that_holds_and_one_that_fails(self):
        brief_search = [*brief(), "--search", 2]
        report = self.json("bench", "trace", *brief_search, "--slo", 600)
        self.assertEqual([(r["rate"], r["holds"]) for r in report["runs"]], [(20, True), (40, True)])
        self.assertEqual((report["highest_rate"], report["next_above"]), (40, None))
        for served in (SERVED, ("--merged", BASE, "--merged", FINETUNED)):
            brief_search = [*brief(served=served), "--search", 2]
            report = self.json("bench", "trace", *brief_search, "--slo", 1e-6)  # no token comes so soon
            self.assertEqual([(r["rate"], r["holds"]) for r in report["runs"]], [(20, False), (10, False)])
            self.assertEqual((report["highest_rate"], report["next_above"]), (0, 10))
            self.assertTrue(all(r["ended_early"] for r in report["runs"]))
        self.fails("bench", "trace", *brief_search, "--flood", 3, says=["--search"], status=2)

    def test_files_of_random_models_are_usable(self):
        out = self.scratch / "random"
        make = ("bench", "make", out, "--shape", "1b", "--layers", 1, "--vocab", 256)
        self.ok(*make, "--variants", 2, "--models", 1)
        self.ok("verify", out / "delta1")
        report = self.json("bench", "trace", *brief(served=("--base", out / "base")), "--delta", out / "delta0", "--delta",
                           out / "delta1")
        self.assertEqual((report["finished"], report["variants"]), (report["requests"], 2))
        self.json("bench", "trace", *brief(served=("--merged", out / "model0")))
        self.fails(*make, says=["not empty"])

    def test_wrong_options_are_named(self):
        self.fails("bench", "trace", *brief(served=("--merged", BASE)), "--delta", BASE, says=["--merged"], status=2)
        self.fails("bench", "trace", *brief(served=()), says=["--base", "--merged"], status=2)
        self.fails("bench", "trace", *brief(), "--popularity", "zipf", says=["zipf:S"], status=2)
        self.fails("bench", "trace", *brief(4, 4), says=["empty"], status=2)


class BenchMemory(CliTest):
    def test_all_variants_answer_and_are_counted(self):
        archive = self.compress("counted", method="bitdelta")
        served = ("--base", BASE, "--delta", archive, "--delta", archive, "--threads", 2, "--kv-gib", 0.05, "--prompt", 20)
        report = self.json("bench", "memory", *served, "--output", 3)
        self.assertEqual((report["variants"], report["answered"], report["evictions"]), (2, 2, 0))
        self.assertEqual(report["kv_tokens_asked_for"], 2 * 23)
        self.assertGreater(report["variant_bytes"], 0)
        self.assertEqual(report["device_held_bytes"], 0)  # the CPU keeps no account
        self.fails("bench", "memory", *served, "--device-memory", 1, says=["device memory", "cpu"])
        self.fails("serve", "--base", BASE, "--port", 0, "--device-memory", 1, says=["device memory", "cpu"])

    def test_cold_starts_beside_answers_that_go_on(self):
        archive = self.compress("loaded", method="bitdelta")
        report = self.json("bench", "loads", "--base", BASE, "--delta", archive, "--delta", archive, "--load", archive, "--threads", 2,
                           "--kv-gib", 0.05, "--repeats", 2, "--pause", 0.2, "--output", 30)
        self.assertEqual((report["answers_meanwhile"], report["loads"]), (2, 2))
        self.assertGreater(report["cold_start_s"]["p50"], 0)
        self.assertGreater(report["p99_ratio"], 0)
        self.fails("bench", "loads", "--base", BASE, "--delta", archive, "--load", self.scratch / "none", "--kv-gib", 0.05, says=["none"])


if __name__ == "__main__":
    unittest.main()
