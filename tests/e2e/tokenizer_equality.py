#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares deltacome's tokenizer with the `tokenizers` package of PyPI.

Usage: tokenizer_equality.py --program build/release/bin/tokenize_lines [--strings 6000] [MODEL_DIR ...]

For each tokenizer and each of the same generated strings (fixed seed) it compares the ids with and
without special tokens, the text decoded with and without skip_special_tokens, and the text of a
streaming decode; then the texts of random ids. The tokenizers are those of the model directories
(without any: tests/data/models/tiny-base and, if it is there, ../shared/testbed/models/small-base)
and others that are trained here in the style of Llama-3, Qwen2, GPT-2, Llama-2 and Mistral.
Exits with 1 on any difference, or if nothing was compared.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)
from tokenizers import __version__ as tokenizers_version

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SCRIPTS = {
    "latin": "the quick brown fox jumps over a lazy dog and then it runs away again".split(),
    "accents": "naïve façade Zürich smörgåsbord Ærøskøbing İstanbul ŒUVRE ǅ ﬁn ß ẞ ſ".split(),
    "decomposed": [unicodedata.normalize("NFD", w) for w in "é ñandú Å ệ Việt 각 한글".split()],
    "greek": "Ελληνικά γλώσσα ΣΊΣΥΦΟΣ ἀρχή ᾧ".split(),
    "cyrillic": "Привет мир ёлка Україна ђ".split(),
    "han": "你好 世界 機器學習 龍 𠮷 㐂 豈 﨑 中文分词".split(),
    "kana": "こんにちは カタカナ ｶﾞ ゔ が ヷ ー".split(),
    "hangul": "안녕하세요 세계 각 ᄀ ᅡ ᆨ 한국어 ㄱ".split(),
    "arabic": "مرحبا بالعالم ٠١٢٣ ﷺ لا \u202bمتن\u202c".split(),
    "hebrew": "שלום עולם שּׁ בְּרֵאשִׁית".split(),
    "indic": "नमस्ते हिन्दी க்ஷ বাংলা క్ష १२३ ॐ".split(),
    "thai": "สวัสดี ไทย กำ ๑๒๓ ဗမာ ខ្មែរ".split(),
    "emoji": "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇩🇪 1️⃣ 🧑🏿‍🚀 ☺ 🫠".split(),
    "digits": "0 7 42 365 1234 3.14159 1,000,000 0xFF 1e-9 ½ ² Ⅷ ٣ 〇 𝟘 ① 五".split(),
    "contraction": "it's I'm we're they've you'll he'd don't IT'S I'M 'S 'ſ 'T x'll 'Ve 'RE '".split(),
    "code": ["def f(x):", "return x**2", "    if (a != b) {", "\t\t}", "std::vector<int>", "x->y",
             "&&", "//", "/* c */", "#include", "\\n", "\"s\"", "a_b_c", "camelCase", "<div>", "=>"],
    "punctuation": "… — – “quoted” ‘single’ « » ¿? ¡! ‽ § ¶ • ※ ▁ ▁▁ _ -- ... !!! ?!".split(),
    "symbols": "∑ ∫ √ ≠ → ⇒ € £ ¥ ₿ ™ © ® ° µ Å Ω ﬀ ㎏ ㈱ ℡ ① ｆｕｌｌ".split(),
    "marks": ["a\u0301", "a\u0323\u0307", "a\u0307\u0323", "q\u0300\u0301\u0302\u0327", "\u0301",
              "Z\u0351\u036b\u0343\u036a\u0302", "\u1100\u1161\u11a8", "\u0915\u093c", "\u212b"],
    "looks_special": ["<0x41>", "<0xE4>", "<0x+5>", "<s", "s>", "<|", "|>", "<unk", "Ġ", "Ċ", "Ġa",
                      "[", "]", "<|eot", "DAY", "day", "word", "ĠĊ", "ł"],
}
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u2003", "\u3000",
          "\u200b", "\u200d", "\u2028", "\u2029", "\u0085", "\u180e", "\ufeff", "\v", "\f", "\u1680",
          "\u202f", "\u205f", "\x1c", "\x1f", "   \n  \n", "\t\t  "]
CONTROLS = ["\0", "\x01", "\x07", "\x1b[0m", "\x7f", "\u0080", "\u009f", "\u00ad", "\u200e", "\ufffd",
            "\uffff", "\U0010ffff", "\ue000", "\U000e0001"]
INVALID = [b"\xff", b"\xfe", b"\x80", b"\xbf\xbf", b"\xc0\xaf", b"\xc3", b"\xe2\x82", b"\xe2\x28\xa1",
           b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80",
           b"\xe0\x80\xaf", b"\xc1\xbf", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"]


def make_strings(count, specials, seed):
    """`count` byte strings: fixed cases first, then random mixtures."""
    rng = random.Random(seed)
    pools = list(SCRIPTS.values())
    fixed = ["", " ", "  ", "\n", "\t", "\0", "a", "▁", " a", "a ", " ▁ ", "é", "e\u0301"]
    fixed += SPACES + CONTROLS + specials + [w for pool in pools for w in pool]
    fixed += [c * n for c in " \na▁😀é1'\t_-世\u0301" for n in (2, 3, 17, 257, 1500)]
    fixed += [s + t for s in SPACES for t in ("a", "1", "!", "\n", "😀")]
    fixed += [a + s + b for s in specials for a in ("", " ", "x", "x ", "\n", "_", "é")
              for b in ("", " ", "y", "  y", "\n", "_", "é", s)]
    out = [s.encode() for s in fixed] + INVALID

    def assigned(ranges):
        while True:
            c = chr(rng.randint(*rng.choice(ranges)))
            if unicodedata.category(c) != "Cs":
                return c

    planes = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x1FFF), (0x2000, 0x2FFF), (0x3000, 0xD7A3),
              (0xF900, 0xFFFD), (0x10000, 0x1FBFF), (0x20000, 0x323AF)]
    while len(out) < count:
        kind = rng.random()
        if kind < 0.25:  # words of one script
            pool = rng.choice(pools)
            text = rng.choice([" ", " ", "", "  "]).join(rng.choices(pool, k=rng.randint(1, 12)))
        elif kind < 0.60:  # a mixture of everything
            parts = []
            for _ in range(rng.randint(1, 14)):
                pick = rng.random()
                parts.append(rng.choice(SPACES) if pick < 0.25 else rng.choice(CONTROLS)
                             if pick < 0.29 else rng.choice(specials) if pick < 0.40
                             else rng.choice(rng.choice(pools)) + rng.choice(["", "", " "]))
            text = "".join(parts)
        elif kind < 0.70:  # random characters
            text = "".join(assigned(planes) for _ in range(rng.randint(1, 24)))
        elif kind < 0.75:  # a base and random marks
            text = rng.choice("aeoqक한") + "".join(assigned([(0x300, 0x36F), (0x5B0, 0x5C7), (0x591, 0x5AF)])
                                                  for _ in range(rng.randint(1, 8)))
        elif kind < 0.80:  # white space only
            text = "".join(rng.choices(SPACES, k=rng.randint(1, 12)))
        elif kind < 0.85:  # ASCII noise
            text = "".join(chr(rng.randint(0, 127)) for _ in range(rng.randint(1, 60)))
        elif kind < 0.97:  # invalid UTF-8
            text = b"".join(rng.choice([rng.choice(INVALID), rng.randbytes(rng.randint(1, 6)),
                                        rng.choice(rng.choice(pools)).encode(),
                                        rng.choice(rng.choice(pools)).encode()[:-1]])
                            for _ in range(rng.randint(1, 8)))
        else:  # long
            pool = rng.choice(pools) + SCRIPTS["latin"]
            text = rng.choice(["", " ", "\n"]).join(rng.choices(pool, k=rng.randint(100, 600)))
        out.append(text if isinstance(text, bytes) else text.encode())
    return out


def corpus():
    """Text to train on: the words above and the sources of this repository."""
    rng = random.Random(7)
    for _ in range(3000):
        yield " ".join(rng.choices(rng.choice(list(SCRIPTS.values())), k=20))
    for path in sorted((ROOT / "src").rglob("*.cc")) + sorted(ROOT.glob("LICENSE")):
        yield from path.read_text().splitlines(keepends=True)


def added_variants():
    """Added tokens with each flag, whose contents overlap."""
    return [AddedToken("<|im_start|>", special=True, normalized=False),
            AddedToken("<|im_end|>", special=True, normalized=False),
            AddedToken("<|im_end|><|im_end|>", special=True, normalized=False),
            AddedToken("<mask>", special=True, lstrip=True, normalized=False),
            AddedToken("<right>", special=False, rstrip=True, normalized=False),
            AddedToken("<both>", special=False, lstrip=True, rstrip=True, normalized=True),
            AddedToken("word", special=False, single_word=True, normalized=False),
            AddedToken("DAY", special=False, single_word=True, normalized=True),
            AddedToken("<norm é>", special=False, normalized=True),
            AddedToken("    ", special=False, normalized=False),
            AddedToken("世界", special=False, normalized=True)]


def template(bos):
    return lambda t: processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, t.token_to_id(bos))])


def train_byte_level(pattern, specials, *, normalizer=None, ignore_merges=False, post=None,
                     prefix_space=False, behavior="isolated"):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=pattern is None)
    t.pre_tokenizer = byte_level if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior), byte_level])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    if post:
        t.post_processor = post(t)
    return t


def train_sentencepiece(*, form, fuse_unk=True, bytes_known=range(256)):
    """Llama-2 and Mistral: `legacy` has normalizers, `metaspace*` a pre-tokenizer."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=True))
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    t.pre_tokenizer = metaspace
    special = ["<unk>", "<s>", "</s>"]
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special + [f"<0x{b:02X}>" for b in bytes_known],
        limit_alphabet=120, show_progress=False))
    data = json.loads(t.to_str())  # the bytes are plain tokens of the vocabulary
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in special]
    t = Tokenizer.from_str(json.dumps(data))
    strip = [decoders.Strip(" ", 1, 0)]
    if form == "legacy":
        t.pre_tokenizer = None
        data = json.loads(t.to_str())
        data["pre_tokenizer"] = None
        t = Tokenizer.from_str(json.dumps(data))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme, split = {"metaspace_first": ("first", False), "metaspace_always": ("always", True),
                         "metaspace_never": ("never", False)}[form]
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=split)
        strip = strip if scheme != "never" else []
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                   decoders.Fuse()] + strip)
    t.post_processor = template("<s>")(t)
    t.add_tokens(added_variants())
    return t


def edited(t, **changes):
    """`t` with parts of its JSON replaced."""
    data = json.loads(t.to_str())
    data.update(changes)
    return Tokenizer.from_str(json.dumps(data))


def synthetic():
    llama3 = train_byte_level(LLAMA3, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"],
                              ignore_merges=True, post=template("<|begin_of_text|>"))
    yield "llama3", llama3
    sequence = edited(llama3, post_processor={"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        json.loads(llama3.to_str())["post_processor"]]})
    sequence.add_tokens(added_variants())
    yield "llama3_added", sequence
    qwen2 = train_byte_level(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                             normalizer=normalizers.NFC(),
                             post=lambda _: processors.ByteLevel(trim_offsets=False))
    qwen2.add_tokens(added_variants())
    yield "qwen2", qwen2
    yield "gpt2", train_byte_level(None, ["<|endoftext|>"])
    yield "gpt2_prefix_space", train_byte_level(None, ["<|endoftext|>", "<mask>"], prefix_space=True,
                                                post=lambda _: processors.ByteLevel())
    yield "old_merges", edited(llama3, model={
        **(model := json.loads(llama3.to_str())["model"]), "type": "BPE",
        "merges": [" ".join(m) for m in model["merges"]]})
    yield "legacy", train_sentencepiece(form="legacy")
    yield "metaspace_first", train_sentencepiece(form="metaspace_first")
    metaspace = train_sentencepiece(form="metaspace_always", fuse_unk=False)
    yield "metaspace_always", metaspace
    yield "metaspace_never", train_sentencepiece(form="metaspace_never")
    yield "few_bytes", train_sentencepiece(form="legacy", bytes_known=range(0x40, 0xE3))
    old_metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    yield "old_metaspace", edited(metaspace, pre_tokenizer=old_metaspace, decoder=old_metaspace)
    yield "no_decoder", edited(metaspace, decoder=None)
    for name, steps in {
            "nfkc_lower": [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()],
            "nfd": [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}+"), "")],
            "nfkd_replace": [normalizers.NFKD(), normalizers.Replace(Regex(r"\s+"), " "),
                             normalizers.Strip(left=True, right=False)]}.items():
        t = edited(metaspace)
        t.normalizer = normalizers.Sequence(steps)
        t.add_tokens([AddedToken("<İ Norm>", normalized=True)])
        yield name, t
    splits = [("digits", pre_tokenizers.Digits(individual_digits=True)),
              ("digit_runs", pre_tokenizers.Digits(individual_digits=False)),
              ("whitespace", pre_tokenizers.Whitespace()),
              ("whitespace_split", pre_tokenizers.WhitespaceSplit())]
    for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"):
        splits.append((behavior, pre_tokenizers.Split(Regex(r"\s|[\p{P}\p{S}]|\b\d"), behavior)))
        splits.append((f"{behavior}_inverted",
                       pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior, invert=True)))
        splits.append((f"{behavior}_string", pre_tokenizers.Split(" ", behavior)))
    for name, step in splits:
        t = edited(llama3)
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [step, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        yield f"split_{name}", t


def run_program(program, path, lines):
    result = subprocess.run([program, path], input="\n".join(lines) + "\n", capture_output=True,
                            encoding="utf-8", check=False)
    if result.returncode != 0:
        sys.exit(f"{path}: {result.stderr.strip()}")
    return [json.loads(line) for line in result.stdout.split("\n")[:-1]], result.stderr.strip()


def compare(program, name, tokenizer, path, count):
    """Number of strings and id lists compared, and of differences."""
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    strings = make_strings(count, specials or ["<s>"], seed=f"strings of {name}")
    rng = random.Random(f"ids of {name}")
    top = max(tokenizer.get_vocab(with_added_tokens=True).values())
    byte_ids = [i for t, i in tokenizer.get_vocab().items() if t.startswith("<0x")] or [0]
    id_lists = [[rng.choice([rng.randint(0, top + 3), rng.choice(byte_ids)])
                 for _ in range(rng.randint(0, 24))] for _ in range(count // 6)]
    answers, speed = run_program(program, path, [s.hex() or "" for s in strings]
                                 + ["ids " + " ".join(map(str, ids)) for ids in id_lists])
    n_bad = 0

    def check(what, source, got, want):
        nonlocal n_bad
        if got == want:
            return True
        n_bad += 1
        if n_bad <= 5:
            print(f"{name}: {what} of {source!r}\n  got  {got!r:.400}\n  want {want!r:.400}")
        return False

    def check_text(source, ids, answer):
        for suffix, skip in (("", False), ("_skip", True)):
            want = tokenizer.decode(ids, skip_special_tokens=skip)
            for kind in ("text", "stream"):
                if not check(kind + suffix, source, answer[kind + suffix], want):
                    return

    assert len(answers) == len(strings) + len(id_lists)
    for data, answer in zip(strings, answers):
        text = data.decode("utf-8", "replace")
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text, add_special_tokens=True).ids
        if (check("ids", data, answer["ids"], plain)
                and check("ids with special tokens", data, answer["ids_special"], special)):
            check_text(data, special, answer)
    for ids, answer in zip(id_lists, answers[len(strings):]):
        check_text(ids, ids, answer)
    print(f"{name}: {len(strings)} strings, {len(id_lists)} id lists, {n_bad} differences; {speed}",
          flush=True)
    return len(strings), len(id_lists), n_bad


def model_directories(given):
    if given:
        yield from given
        return
    for path in (ROOT / "tests/data/models/tiny-base", ROOT / "../shared/testbed/models/small-base"):
        if (path / "tokenizer.json").exists():
            yield path
        else:
            print(f"skipped {path.name}: no {path / 'tokenizer.json'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the built tests/support/tokenize_lines")
    parser.add_argument("--strings", type=int, default=6000, help="strings for each tokenizer")
    parser.add_argument("--only", help="compare only this tokenizer")
    parser.add_argument("models", nargs="*", type=pathlib.Path, help="directories with tokenizer.json")
    args = parser.parse_args()
    print(f"tokenizers {tokenizers_version}")
    totals = [0, 0, 0]
    with tempfile.TemporaryDirectory() as scratch:
        cases = [(p.name, Tokenizer.from_file(str(p / "tokenizer.json")), str(p / "tokenizer.json"))
                 for p in model_directories(args.models)]
        n_models = len(cases)
        for name, tokenizer in synthetic():
            path = str(pathlib.Path(scratch) / f"{name}.json")
            tokenizer.save(path)
            if name == "old_merges":  # save() writes pairs
                data = json.loads(tokenizer.to_str())
                data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
                pathlib.Path(path).write_text(json.dumps(data))
            # Reading a file gives added tokens the treatment that a user of it gets.
            cases.append((name, Tokenizer.from_file(path), path))
        for name, tokenizer, path in cases:
            if args.only in (None, name):
                counts = compare(args.program, name, tokenizer, path, args.strings)
                totals = [a + b for a, b in zip(totals, counts)]
    print(f"{len(cases)} tokenizers ({n_models} of models): {totals[0]} strings and {totals[1]} id "
          f"lists compared, {totals[2]} differences")
    return 0 if totals[0] and not totals[2] else 1


if __name__ == "__main__":
    sys.exit(main())
