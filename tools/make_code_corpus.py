#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes training and evaluation text out of C++ headers that packages install.

    tools/make_code_corpus.py OUT --tokenizer MODEL DIR...

docs/quality.md was measured on llvm-14-dev 1:14.0.6-12 (Apache-2.0 with LLVM exceptions) and libboost1.81-dev
1.81.0-5+deb12u1 (BSL-1.0): /usr/include/llvm-14 /usr/include/boost/{asio,geometry,spirit}.

A file is for training, validation or evaluation by the hash of its name. OUT/train.jsonl and valid.jsonl have {file,
text}; eval.jsonl, valid-rows.jsonl and, of some files of training, recall.jsonl have {prompt, response, answer}: 256
tokens of a file, the 128 after them, and as answer the first 8 of these, so that `deltacome eval --max-tokens 8` scores
them; calib.jsonl {text}, passages of files of training for `deltacome compress --calib`. The comment at a file's start is
dropped (licences), and so is a file of whose lines half are in earlier files. Needs tokenizers.
"""
import argparse
import hashlib
import json
import pathlib
import random
import re

from tokenizers import Tokenizer

PROMPT, RESPONSE, ANSWER = 256, 128, 8  # tokens
SHARES = (("eval", 40), ("valid", 20))  # thousandths; the rest is for training
RECALLED = 25  # one of so many files of training
PASSAGE, PASSAGES = 2000, 1000  # characters of a row for calibration, and rows
FIRST_COMMENTS = re.compile(r"\A(\s*(//[^\n]*\n|/\*.*?\*/[ \t]*\n?))*", re.S)
LONG_LINE = 12  # characters that make a line count when files are compared


def cleaned(text):
    text = FIRST_COMMENTS.sub("", text.replace("\r\n", "\n").replace("\t", "    "))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text))
    return text.strip() + "\n"


def documents(directories):
    """(name, text) of files that are not mostly in others before them."""
    seen = set()
    for directory in directories:
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            try:
                text = cleaned(path.read_text("ascii"))
            except UnicodeDecodeError:
                continue
            lines = {line.strip() for line in text.split("\n") if len(line.strip()) > LONG_LINE}
            if not 1500 < len(text) < 120_000 or 2 * len(lines & seen) > len(lines):
                continue
            seen |= lines
            yield str(path.relative_to(directory.parent)), text


def part_of(name):
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 1000
    for part, share in SHARES:
        if place < share:
            return part
        place -= share
    return "train"


def row_of(text, tokenizer, rng):
    """A row that starts with a line of `text`, or None. Its texts give the tokens it was cut from."""
    starts = [m.end() for m in re.finditer("\n", text)]
    for _ in range(20):
        ids = tokenizer.encode(text[rng.choice(starts):], add_special_tokens=False).ids[:PROMPT + RESPONSE]
        if len(ids) < PROMPT + RESPONSE:
            continue
        prompt, response = tokenizer.decode(ids[:PROMPT]), tokenizer.decode(ids[PROMPT:])
        answer = tokenizer.decode(ids[PROMPT:PROMPT + ANSWER]).strip()
        whole = tokenizer.encode(prompt + response, add_special_tokens=False).ids
        same = whole == ids and tokenizer.encode(prompt, add_special_tokens=False).ids == ids[:PROMPT]
        if same and len(re.sub(r"\W", "", answer)) >= ANSWER and "####" not in answer:
            return {"prompt": prompt, "response": response, "answer": answer}
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("directories", type=pathlib.Path, nargs="+", metavar="DIR")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=5, help="of a file, at most")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer, rng = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json")), random.Random(0)
    parts = {"train": [], "valid": [], "eval": []}
    for name, text in documents(args.directories):
        parts[part_of(name)].append({"file": name, "text": text})

    def rows_of(documents):
        rows = [row for document in documents for _ in range(args.rows) if (row := row_of(document["text"], tokenizer, rng))]
        rng.shuffle(rows)
        return rows

    held_out = parts["eval"]
    passages = [document["text"][rng.randrange(len(document["text"])):][:PASSAGE] for document in parts["train"]]
    parts["calib"] = [{"text": passage} for passage in passages if len(passage) == PASSAGE]
    parts["calib"] = rng.sample(parts["calib"], min(PASSAGES, len(parts["calib"])))
    parts |= {"eval": rows_of(held_out), "valid-rows": rows_of(parts["valid"]), "recall": rows_of(parts["train"][::RECALLED])}
    for part, rows in parts.items():
        (args.out / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(parts['train'])} files for training ({sum(len(r['text']) for r in parts['train'])} bytes), {len(parts['valid'])} for "
          f"validation, {len(held_out)} for {len(parts['eval'])} rows of evaluation")


if __name__ == "__main__":
    main()
