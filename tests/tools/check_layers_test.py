# SPDX-License-Identifier: Apache-2.0
"""tools/check_layers.py finds what breaks the layers, and only that."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/check_layers.py"


def check(files):
    """Runs the tool on a tree with these files; returns (exit status, output lines)."""
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, TOOL, "--root", root], capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()


class CheckLayers(unittest.TestCase):
    def test_accepts_what_the_table_allows(self):
        status, lines = check({
            "src/io/archive.cc": '#include "io/archive.h"\n#include "quant/format.h"\n'
                                 '#include <nlohmann/json.hpp>\n#include "deltacome/archive.h"\n',
            "src/grammar/schema.cc": '#include "core/check.h"\n#include <nlohmann/json.hpp>\n',
            "src/engine/sampler.cc": '#include "grammar/token_masks.h"\n',
            "src/backend/cpu/gemm.cc": '#include "linalg/dense.h"\n#include "backend/backend.h"\n',
            "src/io/archive_test.cc": '#include "tests/support/temp_dir.h"\n#include <gtest/gtest.h>\n',
            "src/backend/cuda/copy.cu": "#include <cuda_runtime.h>\n",
            "apps/main.cc": '#include "cli.h"\n#include "deltacome/eval.h"\n#include <CLI/CLI.hpp>\n',
        })
        self.assertEqual((status, lines), (0, ["layers: ok"]))

    def test_names_file_and_line_of_each_violation(self):
        cases = {
            "upward": ("src/core/a.h", "io/files.h"),
            "sideways": ("src/model/a.cc", "delta/store.h"),
            "sideways in the top row": ("src/eval/a.cc", "engine/engine.h"),
            "constraints below the engine": ("src/model/a.cc", "grammar/token_masks.h"),
            "grammar beside text": ("src/grammar/a.cc", "text/tokenizer.h"),
            "a backend's inside": ("src/model/a.cc", "backend/cpu/gemm.h"),
            "linalg above the backend": ("src/compress/a.cc", "linalg/dense.h"),
            "JSON outside its folders": ("src/model/a.cc", "nlohmann/json.hpp"),
            "JSON through io": ("src/delta/a.cc", "io/json.h"),
            "CUDA outside its folder": ("src/backend/a.cc", "cuda_runtime.h"),
            "LAPACK outside its folders": ("src/compress/a.cc", "lapacke.h"),
            "inside of the library in the program": ("apps/a.cc", "io/files.h"),
            "inside of the library in a public header": ("include/deltacome/a.h", "core/check.h"),
            "somebody else's public header": ("src/core/a.cc", "deltacome/compress.h"),
            "not by path": ("src/io/a.cc", "files.h"),
        }
        for what, (path, name) in cases.items():
            for quotes in ('"{}"', "<{}>") if "JSON out" in what or "CUDA" in what else ('"{}"',):
                with self.subTest(what=what, quotes=quotes):
                    status, lines = check({path: "\n  #  include " + quotes.format(name) + "\n"})
                    self.assertEqual(status, 1)
                    self.assertEqual(len(lines), 1, lines)
                    self.assertTrue(lines[0].startswith(f"{path}:2: "), lines)

    def test_the_project_itself_keeps_its_layers(self):
        done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    unittest.main()
