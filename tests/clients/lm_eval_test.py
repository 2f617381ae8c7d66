# SPDX-License-Identifier: Apache-2.0
"""`lm-eval`'s local-completions, unchanged, on a task of our own. Skipped where it is not installed:
pip install -r tests/clients/requirements.txt"""

import json
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedVariantTest  # noqa: E402
from support import BASE, ROOT  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
try:
    import lm_eval
    import lm_eval.tasks
    import transformers  # noqa: F401  (its tokenizers)
except ImportError:
    lm_eval = None

TASK = """task: deltacome_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_text: "{{{{prompt}}}}"
{more}
metadata: {{version: 1}}
"""


@unittest.skipIf(lm_eval is None, "the packages lm-eval and transformers are not installed")
class LmEvalTest(ServedVariantTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.environ.setdefault("HF_HOME", str(cls.scratch / "hf"))
        rows = (ROOT / "tests/data/eval/math.jsonl").read_text().splitlines()[:6]
        cls.rows = [json.loads(row) for row in rows]
        for row in cls.rows:
            # It moves spaces at the end of a prompt to the answer: ours begins with them.
            row["prompt"] = row["prompt"].rstrip()
            row["response"] = "\n\n" + row["response"]
            row["wrong"] = row["response"].replace("= ", "= 1")
        data = cls.scratch / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in cls.rows))
        tasks = cls.scratch / "tasks"
        tasks.mkdir()
        for name, output, more in (
                ("choice", "multiple_choice",
                 'doc_to_choice: "{{[wrong, response]}}"\ndoc_to_target: 1\n'
                 'target_delimiter: ""\nmetric_list: [{metric: acc}]'),
                ("answer", "generate_until",
                 'doc_to_target: "{{greedy}}"\ntarget_delimiter: ""\n'
                 'generation_kwargs: {until: ["####"], max_gen_toks: 12, temperature: 0}\n'
                 'metric_list: [{metric: exact_match}]')):
            (tasks / f"{name}.yaml").write_text(
                TASK.format(name=name, output=output, more=more, data=data))
        cls.data, cls.tasks = data, tasks
        cls.model = dict(
            model="math", base_url=f"http://127.0.0.1:{cls.server.port}/v1/completions",
            tokenizer=str(BASE), tokenizer_backend="huggingface", num_concurrent=2, max_retries=1,
            max_length=512, batch_size=2)

    def evaluate(self, name):
        found = lm_eval.tasks.TaskManager(include_path=str(self.tasks), include_defaults=False)
        done = lm_eval.simple_evaluate(
            model="local-completions", model_args=",".join(f"{k}={v}" for k, v in self.model.items()),
            tasks=[f"deltacome_{name}"], task_manager=found, log_samples=True, bootstrap_iters=0)
        return done["results"][f"deltacome_{name}"], done["samples"][f"deltacome_{name}"]

    def tokens(self, text):
        """As it sends them."""
        return self.server.ask("POST", "/tokenize", {
            "model": "math", "prompt": text, "add_special_tokens": False})[1]["tokens"]

    def likelihood(self, row, answer):
        """Of `answer` after the row's prompt, by our own request."""
        ids = [self.tokens(text) for text in (row["prompt"], row["prompt"] + answer)]
        _, body = self.server.ask("POST", "/v1/completions", {
            "model": "math", "prompt": ids[1], "echo": True, "logprobs": 0, "max_tokens": 0})
        return sum(body["choices"][0]["logprobs"]["token_logprobs"][len(ids[0]):])

    def test_log_probabilities_of_choices(self):
        results, samples = self.evaluate("choice")
        n_right = 0
        for sample in samples:
            row = self.rows[sample["doc_id"]]
            want = [self.likelihood(row, row[kind]) for kind in ("wrong", "response")]
            got = [float(response[0][0]) for response in sample["resps"]]
            for a, b in zip(got, want):
                self.assertAlmostEqual(a, b, places=3)
            n_right += want[1] > want[0]
        self.assertEqual(len(samples), len(self.rows))
        self.assertAlmostEqual(results["acc,none"], n_right / len(samples))

    def test_answers(self):
        rows = [row | {"greedy": self.server.complete("math", prompt=self.tokens(row["prompt"]),
                                                      max_tokens=12)} for row in self.rows]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        results, _ = self.evaluate("answer")
        self.assertEqual(results["exact_match,none"], 1)


if __name__ == "__main__":
    unittest.main()
