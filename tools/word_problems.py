#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes word problems with their reckoning: OUT/train.jsonl, OUT/eval.jsonl {prompt, response, answer} and, for
`deltacome compress --calib`, OUT/calib.jsonl {text}.

    tools/word_problems.py OUT [--train 200000] [--eval 300]

No problem of one file is in another.
"""
import argparse
import json
import pathlib
import random

NAMES = "Ada Bo Carl Dora Emil Fay Gus Hana Ivan Jana Kai Lena Milo Nina Otto Pia Rosa Sven Tara Ugo".split()
THINGS = "apples beads coins books shells pencils stamps marbles cards keys nuts stones".split()
MOST = 999  # of the things at any time


def steps(rng, name, thing, have):
    """One of the possible next steps: (what happens, its reckoning, how many there are then)."""
    n, k = rng.randint(3, 400), rng.randint(2, 9)
    m, group = rng.randint(2, 12), rng.randint(2, 30)
    yield f"{name} finds {n} {thing}.", f"{have} + {n} = {have + n}.", have + n
    yield f"{name} loses {n} {thing}.", f"{have} - {n} = {have - n}.", have - n
    many = m * group
    yield f"{name} buys {m} boxes of {group} {thing} each.", f"{m} * {group} = {many}. {have} + {many} = {have + many}.", have + many
    yield f"{name} gives {group} {thing} to each of {m} friends.", f"{m} * {group} = {many}. {have} - {many} = {have - many}.", have - many
    yield f"Then {name} has {k} times as many.", f"{have} * {k} = {have * k}.", have * k
    if have % k == 0:
        yield f"{name} shares them equally among {k} bags and keeps one bag.", f"{have} / {k} = {have // k}.", have // k


def problem(rng):
    name, thing, have = rng.choice(NAMES), rng.choice(THINGS), rng.randint(5, 500)
    told, reckoned = [f"{name} has {have} {thing}."], []
    for _ in range(rng.randint(2, 4)):
        possible = [step for step in steps(rng, name, thing, have) if 0 <= step[2] <= MOST]
        if not possible:
            break
        what, sum_, have = rng.choice(possible)
        told.append(what)
        reckoned.append(sum_)
    question = f"How many {thing} does {name} have now?"
    return {"prompt": f"### Instruction:\n{' '.join(told)} {question}\n\n### Response:\n",
            "response": f"{' '.join(reckoned)}\n#### {have}", "answer": str(have)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=200_000)
    parser.add_argument("--eval", type=int, default=300)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng, seen = random.Random(1), set()
    for part, count in (("eval", args.eval), ("train", args.train)):
        rows = []
        while len(rows) < count:
            row = problem(rng)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                rows.append(row)
        (args.out / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (args.out / "calib.jsonl").write_text("".join(json.dumps({"text": row["prompt"] + row["response"]}) + "\n" for row in rows[:4000]))


if __name__ == "__main__":
    main()
