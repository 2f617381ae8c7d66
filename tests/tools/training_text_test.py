# SPDX-License-Identifier: Apache-2.0
"""What tools/word_problems.py and tools/make_code_corpus.py write for training and evaluation."""

import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/data/models/tiny-base"


def run(tool, *arguments):
    subprocess.run([sys.executable, ROOT / "tools" / tool, *map(str, arguments)], check=True, capture_output=True)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def header(seed, n_lines):
    """A made-up file: a licence, then lines that no other seed has."""
    rng = random.Random(seed)
    words = [f"{rng.choice('abcdefgh')}{rng.randrange(10**6)}" for _ in range(n_lines)]
    return f"// Licence of file {seed}\n\n" + "".join(f"int function_{w}(int argument_{w});\n" for w in words)


class WordProblems(unittest.TestCase):
    def test_each_answer_is_what_its_reckoning_gives_and_no_problem_is_in_both_files(self):
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch)
            run("word_problems.py", out, "--train", 300, "--eval", 50)
            train, held_out = rows(out / "train.jsonl"), rows(out / "eval.jsonl")
            self.assertEqual((len(train), len(held_out), len(rows(out / "calib.jsonl"))), (300, 50, 300))
            self.assertFalse({r["prompt"] for r in train} & {r["prompt"] for r in held_out})
            for row in train + held_out:
                sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", row["response"])
                self.assertGreaterEqual(len(sums), 1, row)
                for a, sign, b, result in sums:
                    a, b = int(a), int(b)
                    self.assertEqual({"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign], int(result), row)
                self.assertTrue(row["response"].endswith(f"\n#### {row['answer']}"), row)
                self.assertEqual(sums[-1][3], row["answer"], row)


class CodeCorpus(unittest.TestCase):
    def test_parts_share_no_file_and_rows_are_cut_at_tokens(self):
        with tempfile.TemporaryDirectory() as scratch:
            source, out = pathlib.Path(scratch, "include"), pathlib.Path(scratch, "out")
            source.mkdir()
            for i in range(120):
                (source / f"file_{i}.h").write_text(header(i, 60))
            (source / "zz_copy.h").write_text(header(0, 60))  # of file_0.h
            (source / "zz_short.h").write_text("int x;\n")
            run("make_code_corpus.py", out, "--tokenizer", TOKENIZER, source)
            train, valid, held_out = (rows(out / f"{part}.jsonl") for part in ("train", "valid", "eval"))
            names = [r["file"] for r in train + valid]
            self.assertEqual(len(names), len(set(names)))
            self.assertLess(len(names), 120)  # some are for evaluation
            self.assertFalse([n for n in names if "zz_" in n])
            self.assertFalse([r for r in train + valid if "Licence" in r["text"]])
            tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
            trained = "".join(r["text"] for r in train)
            self.assertTrue(held_out)
            for row in held_out:
                prompt = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
                whole = tokenizer.encode(row["prompt"] + row["response"], add_special_tokens=False).ids
                self.assertEqual((len(prompt), len(whole), whole[:len(prompt)]), (256, 384, prompt))
                self.assertTrue(row["response"].lstrip().startswith(row["answer"]), row)
                self.assertFalse([line for line in row["response"].splitlines()[1:-1] if line in trained])


if __name__ == "__main__":
    unittest.main()
