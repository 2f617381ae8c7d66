# SPDX-License-Identifier: Apache-2.0
"""vLLM's own serving benchmark, `vllm bench serve`, unchanged, over a base and two variants. Skipped
where vllm is not installed: pip install vllm (some 6 GB; it needs no GPU for this)"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, FINETUNED, CliTest, run  # noqa: E402

TOOL = shutil.which("vllm", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("vllm")
N_PROMPTS, N_TOKENS = 12, 16


@unittest.skipIf(TOOL is None, "the package vllm is not installed")
class VllmBenchTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        archives = {name: cls.scratch / name for name in ("math", "low")}
        for (name, archive), method in zip(archives.items(), (["bitdelta"], ["lowrank", "--bits", "2"])):
            done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", archive,
                       "--distill", "0", "--method", *method)
            assert done.returncode == 0, done.stderr
        cls.server = ServedProgram(
            *(word for name, archive in archives.items() for word in ("--delta", f"{name}={archive}")))
        cls.addClassCleanup(cls.server.__exit__)

    def bench(self, *options):
        """Its report, after a run in which every request was answered."""
        report = self.scratch / "report.json"
        done = subprocess.run(
            [TOOL, "bench", "serve", "--host", "127.0.0.1", "--port", str(self.server.port),
             "--model", "tiny-base", "--tokenizer", str(BASE), "--dataset-name", "random",
             "--random-input-len", "24", "--random-output-len", str(N_TOKENS), "--ignore-eos",
             "--num-prompts", str(N_PROMPTS), "--seed", "1", "--percentile-metrics",
             "ttft,tpot,itl,e2el", "--save-result", "--result-dir", str(self.scratch),
             "--result-filename", report.name, "--disable-tqdm", *options],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-3000:])
        result = json.loads(report.read_text())
        self.assertEqual((result["completed"], result["failed"]), (N_PROMPTS, 0), result.get("errors"))
        self.assertEqual(result["total_output_tokens"], N_PROMPTS * N_TOKENS)
        for metric in ("ttft", "tpot", "itl", "e2el"):
            self.assertGreater(result[f"mean_{metric}_ms"], 0, metric)
        return result

    def requests_of(self, variant):
        """That its counter has seen."""
        _, metrics = self.server.ask("GET", "/metrics")
        name = f'deltacome:variant_requests_total{{variant="{variant}"}} '
        return sum(int(line.removeprefix(name)) for line in metrics.splitlines() if line.startswith(name))

    def test_completions_over_variants(self):
        before = {name: self.requests_of(name) for name in ("math", "low")}
        self.bench("--backend", "openai", "--endpoint", "/v1/completions",
                   "--lora-modules", "math", "low", "--request-rate", "inf", "--max-concurrency", "6")
        now = {name: self.requests_of(name) for name in before}
        self.assertGreaterEqual(sum(now.values()) - sum(before.values()), N_PROMPTS)

    def test_chats(self):
        self.bench("--backend", "openai-chat", "--endpoint", "/v1/chat/completions")

    def test_completions_of_the_base_at_a_rate_with_goodput(self):
        result = self.bench("--backend", "vllm", "--request-rate", "20", "--burstiness", "0.5",
                            "--goodput", "ttft:60000", "e2el:60000")
        self.assertGreater(result["request_goodput"], 0)


if __name__ == "__main__":
    unittest.main()
