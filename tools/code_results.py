#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Share of completed functions that compute the same results as the reference.

    deltacome eval ... --data code.jsonl --generations out.jsonl
    tools/code_results.py out.jsonl

A row is {prompt, response, results?, completion}: prompt + completion is a Python function of one list of
numbers or one text. Both it and prompt + response run on the same fixed inputs, each in its own process
with a time limit; the row counts if every result is equal. The functions come from a model: run this where that is acceptable.
"""
import argparse
import copy
import json
import multiprocessing
import os
import re
import sys

LISTS = [[], [1], [5, 3, 8], [2, 4, 6, 8, 10], [-3, 7, 0, 12, 5, 5], [100, 21, 14, 3, 9, 27, 30],
          [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [-10, -5, 0, 5, 10, 15], [13, 13, 2, 40, 7, 18, 18, 25]]
TEXTS = ["", "a", "hello world", "The quick brown fox jumps over the lazy dog", "one two  three", "aaa bb a bb ccc",
         "Maya has 12 red apples and 3 pears", "UPPER lower MiXeD", "x y z x y"]
SECONDS = 2


def run(source, inputs, queue):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # what the function prints is not a result
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        name = re.search(r"def (\w+)\(", source).group(1)
        scope = {}
        exec(source, scope)  # noqa: S102 (that is the point)
        queue.put([repr(scope[name](copy.copy(values))) for values in inputs])
    except BaseException as error:  # a wrong program may raise anything
        queue.put(f"{type(error).__name__}")


def results(source, inputs):
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=run, args=(source, inputs, queue))
    process.start()
    try:
        got = queue.get(timeout=SECONDS + 1)
    except Exception:
        got = "timeout"
    process.kill()
    process.join()
    return got


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generations")
    args = parser.parse_args()
    same = total = 0
    for line in open(args.generations):
        row = json.loads(line)
        reference = row["prompt"] + row["response"]
        inputs = LISTS
        want = results(reference, LISTS)
        if isinstance(want, str):
            inputs = TEXTS
            want = results(reference, TEXTS)
        if isinstance(want, str):
            sys.exit(f"{args.generations}: the reference of row {total + 1} fails with {want}")
        same += results(row["prompt"] + row["completion"], inputs) == want
        total += 1
    print(json.dumps({"same_results": same / total, "rows": total}))


if __name__ == "__main__":
    main()
