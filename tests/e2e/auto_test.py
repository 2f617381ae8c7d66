# SPDX-License-Identifier: Apache-2.0
"""The method `auto` through the program: distilled, reported, searched, resumed."""

import re
import subprocess
import sys
import unittest

from support import BASE, FINETUNED, PROGRAM, ROOT, CliTest, contents

CALIB = ROOT / "tests/data/calib/math.jsonl"
PAIR = ("compress", "--base", BASE, "--finetuned", FINETUNED, "--threads", 2, "--calib", CALIB,
        "--calib-tokens", 4096)
DISTILLED = (*PAIR, "--bits", 1.25, "--distill", 0.2)  # some 60 steps


class Auto(CliTest):
    def test_a_distilled_archive_is_nearer_than_come_at_equal_bytes(self):
        out, pages = self.scratch / "auto", self.scratch / "pages"
        report = self.json(*DISTILLED, "--out", out, "--report", pages)
        self.assertLessEqual(report["bits_per_weight"], 1.25)
        tried = {t["name"]: t for t in report["tried"]}
        plans = {"tiers", "whole", "mixed", "mixed, fewer tiers", "mixed, few tiers"}
        self.assertEqual(set(tried), plans | {"auto, distilled"})
        self.assertEqual([n for n, t in tried.items() if t["chosen"]], ["auto, distilled"])
        best = min(tried[n]["kl"] for n in plans)
        self.assertLess(tried["auto, distilled"]["kl"], best)
        page = (pages / "report.html").read_text()
        for word in ("Distillation", "down_proj", "auto, distilled"):
            self.assertIn(word, page)
        self.assertNotIn("This was not measured", page)

        self.ok("verify", out, "--base", BASE)
        merged = self.scratch / "merged"
        self.ok("merge", "--base", BASE, "--delta", out, "--out", merged)
        come = self.compress("come", "--bits", 1.25, "--calib", CALIB, "--calib-tokens", 4096)
        data = ROOT / "tests/data/eval/math.jsonl"
        score = lambda *what: self.json("eval", "--base", BASE, *what, "--reference", FINETUNED, "--data", data,
                                        "--limit", 20, "--no-generate")["kl"]
        packed = score("--delta", out)
        self.assertLess(packed, 0.5 * score("--delta", come))
        # The merged weights are rounded to the fine-tune's bf16.
        self.assertLess(abs(score("--model", merged) - packed), 0.02 * packed + 0.002)
        listed = subprocess.run([sys.executable, ROOT / "tools/read_archive.py", out], capture_output=True, text=True)
        self.assertEqual(listed.returncode, 0, listed.stderr)

        again = self.scratch / "again"  # the same bytes, and after an interruption too
        self.ok(*DISTILLED, "--out", again)
        self.assertEqual(contents(again), contents(out))
        broken = self.scratch / "broken"
        process = subprocess.Popen([PROGRAM, *map(str, (*DISTILLED, "--out", broken))], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "coding" in line:
                break
        process.kill()
        process.communicate()
        self.ok(*DISTILLED, "--out", broken, "--resume")
        self.assertEqual(contents(broken), contents(out))

    def test_one_family_alone(self):
        for codes, codec in (("lowrank", "lowrank"), ("whole", "vector")):
            out = self.scratch / codes
            self.ok(*PAIR, "--bits", 0.8, "--profile", "fast", "--codes", codes, "--out", out)
            found = {t["codec"] for t in self.json("inspect", out)["tensors"] if t["kind"].endswith("_proj")}
            self.assertEqual(found, {codec})

    def test_target_kl_finds_the_smallest_archive(self):
        report = self.json(*PAIR, "--profile", "fast", "--target-kl", 0.4, "--out", self.scratch / "target")
        measured = dict(re.match(r"at ([\d.]+) bits the KL is ([\d.]+)", note).groups() for note in report["notes"]
                        if note.startswith("at "))
        reached = [float(bits) for bits, kl in measured.items() if float(kl) <= 0.4]
        missed = [float(bits) for bits, kl in measured.items() if float(kl) > 0.4]
        self.assertAlmostEqual(report["requested_bits"], min(reached), places=3)
        self.assertLessEqual(min(reached), 1.05 * max(missed))
        self.fails("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", self.scratch / "no", "--method",
                   "come", "--target-kl", 0.1, says=("--target-kl", "come"))

    def test_bitdelta_distils_its_scales(self):
        kls = {}
        for minutes in (0, 0.2):
            out = self.scratch / f"bitdelta-{minutes}"
            self.ok(*PAIR, "--method", "bitdelta", "--bits", 1.25, "--distill", minutes, "--out", out)
            kls[minutes] = self.json("eval", "--base", BASE, "--delta", out, "--reference", FINETUNED, "--data",
                                     ROOT / "tests/data/eval/math.jsonl", "--limit", 10, "--no-generate")["kl"]
        self.assertLess(kls[0.2], 0.9 * kls[0])


if __name__ == "__main__":
    unittest.main()
