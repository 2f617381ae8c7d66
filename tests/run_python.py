#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the Python tests: the unittest files (*_test.py) of FOLDERS, and the comparisons with other packages
(COMPARISONS), each a program that exits with 1 on a difference.

Usage: run_python.py [--bin build/release/bin] [--results DIR] [PATTERN ...]
Writes DIR/python.xml in JUnit's form. A PATTERN selects tests whose name contains it.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("tests/tools", "tests/e2e", "tests/clients", "tests/browser", "tests/reliability")
# Script in tests/e2e: the built program that it drives.
COMPARISONS = {"tokenizer_equality.py": "tokenize_lines", "chat_template_equality.py": "render_template"}


class Result(unittest.TextTestResult):
    """Keeps (name, seconds, kind, message) of every test; kind "" = passed."""

    def __init__(self, *args):
        super().__init__(*args)
        self.cases = []

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def keep(self, test, kind="", message=""):
        self.cases.append((test.id(), time.monotonic() - getattr(self, "began", time.monotonic()),
                           kind, message))

    def addSuccess(self, test):
        super().addSuccess(test)
        self.keep(test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.keep(test, "skipped", reason)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.keep(test, "failure", str(error[1]))

    def addError(self, test, error):
        super().addError(test, error)
        self.keep(test, "failure", str(error[1]))

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.keep(subtest, "failure", str(error[1]))


def selected(suite, patterns):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from selected(test, patterns)
        elif not patterns or any(p in test.id() for p in patterns):
            yield test


def run_comparison(script, program):
    if not script.exists() or not program.exists():
        lacks = script if not script.exists() else program
        return "skipped", f"no {lacks.relative_to(ROOT) if lacks.is_relative_to(ROOT) else lacks}"
    done = subprocess.run([sys.executable, script, "--program", program])
    return ("", "") if done.returncode == 0 else ("failure", f"exit status {done.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--results", type=pathlib.Path)
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    os.environ["DELTACOME"] = str((args.bin / "deltacome").resolve())

    suite = unittest.TestSuite()
    for folder in FOLDERS:
        found = unittest.TestLoader().discover(str(ROOT / folder), pattern="*_test.py")
        suite.addTests(selected(found, args.patterns))
    runner = unittest.TextTestRunner(sys.stdout, verbosity=2, resultclass=Result)
    result = runner.run(suite)
    cases = result.cases
    for name, program in COMPARISONS.items():
        if args.patterns and not any(p in name for p in args.patterns):
            continue
        began = time.monotonic()
        kind, message = run_comparison(ROOT / "tests/e2e" / name, args.bin.resolve() / program)
        cases.append((name, time.monotonic() - began, kind, message))
        print(f"{name} ... {kind or 'ok'} {message}", flush=True)

    if args.results:
        root = ElementTree.Element("testsuite", name="python", tests=str(len(cases)))
        for name, seconds, kind, message in cases:
            case = ElementTree.SubElement(root, "testcase", name=name, time=f"{seconds:.3f}")
            if kind:
                ElementTree.SubElement(case, kind, message="".join(c if c.isprintable() else " " for c in message))
        args.results.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(args.results / "python.xml", encoding="utf-8")
    return 1 if any(kind == "failure" for _, _, kind, _ in cases) or not result.wasSuccessful() else 0


if __name__ == "__main__":
    sys.exit(main())
