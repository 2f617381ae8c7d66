# SPDX-License-Identifier: Apache-2.0
"""The command line on the embedded pair: forms, exit statuses, round trips, refusals."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import unittest

import numpy as np
from safetensors import safe_open

sys.path.insert(0, os.path.dirname(__file__))
from support import BASE, FINETUNED, PROGRAM, PROMPT, ROOT, CliTest, contents, read_safetensors, run  # noqa: E402

sys.path.insert(0, str(ROOT / "tools"))
import read_archive  # noqa: E402

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


class Usage(CliTest):
    def test_wrong_usage_exits_with_2_and_one_line(self):
        compress = ["compress", "--base", "b", "--finetuned", "f", "--out", "o"]
        cases = [
            ([], "subcommand"),
            (["serve-me"], "serve-me"),
            (["inspect"], "archive"),
            (["inspect", "a", "--wat"], "--wat"),
            (compress[:-2], "--out"),
            (compress + ["--bits", "x"], "--bits"),
            (compress + ["--bits", "0"], "--bits"),
            (compress + ["--bits", "16.5"], "--bits"),
            (compress + ["--bits", "nan"], "--bits"),
            (compress + ["--method", "zip"], "auto,come,lowrank,bitdelta"),
            (compress + ["--threads", "-1"], "--threads"),
            (compress + ["--seed", "-1"], "--seed"),
            (compress + ["--base", ""], "--base"),
            (["eval", "--base", "b", "--delta", "d", "--model", "m", "--data", "x"], "--model"),
            (["eval", "--base", "b"], "--data"),
            (["generate", "--base", "b"], "--prompt"),
            (["generate", "--base", "b", "--prompt", "x", "--chat", "y"], "--chat"),
            (["generate", "--prompt", "x"], "--base"),
            (["generate", "--base", "b", "--prompt", "x", "--temperature", "hot"], "--temperature"),
            (["merge", "--base", "b", "--out", "o"], "--delta"),
        ]
        for arguments, word in cases:
            with self.subTest(arguments=arguments):
                self.fails(*arguments, status=2, says=[word])

    def test_help_and_version_exit_with_0(self):
        for arguments in (["--help"], ["--version"], ["compress", "--help"], ["generate", "--help"]):
            done = self.ok(*arguments)
            self.assertTrue(done.stdout)
            self.assertEqual(done.stderr, "")

    def test_missing_directories_are_named(self):
        gone = self.scratch / "gone"
        self.fails("inspect", gone, says=[gone])
        self.fails("verify", gone, says=[gone])
        self.fails("generate", "--base", gone, "--prompt", "x", says=[gone])
        self.fails("eval", "--base", gone, "--data", self.data, says=[gone])
        self.fails("eval", "--base", BASE, "--data", gone, says=[gone])
        self.fails("compress", "--base", BASE, "--finetuned", gone, "--out", self.scratch / "o", says=[gone])

    def test_an_unknown_device_is_named_and_nothing_is_left(self):
        out = self.scratch / "no-device"
        self.fails("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, "--device", "gpu",
                   says=['"gpu"', "cpu, cuda or cuda:N"])
        self.assertEqual(list(self.scratch.glob("no-device*")), [])

    def test_a_closed_standard_output_is_no_crash(self):
        for redirection in (">&-", "| true", ">/dev/full"):
            done = subprocess.run(f"exec 3>&1; {{ '{PROGRAM}' generate --base '{BASE}' --prompt Tom; "
                                  f"echo $? >&3; }} {redirection}",
                                  shell=True, capture_output=True, text=True)
            self.assertNotIn("terminate", done.stderr)
            status = [line for line in done.stdout.split() if line.isdigit()]
            self.assertIn(int(status[-1]) if status else 1, (0, 1), redirection)


    def test_threads_that_the_system_refuses_are_an_error_and_no_hang(self):
        done = subprocess.run(f"ulimit -v 700000; '{PROGRAM}' generate --base '{BASE}' --prompt Tom "
                              "--max-tokens 1 --threads 1000", shell=True, capture_output=True,
                              text=True, timeout=60, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("1000 threads", done.stderr)


class Archives(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.archive = cls.scratch / "tiny-math"
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", cls.archive, "--bits",
                   "1.25", "--method", "come", "--calib", cls.calib, "--held-out", cls.data, "--json")
        assert done.returncode == 0, done.stderr
        cls.report = json.loads(done.stdout)

    def test_compress_reports_the_plan_and_what_it_costs(self):
        self.assertEqual(self.report["method"], "come")
        kinds = {row["kind"]: row for row in self.report["summary"]}
        for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            self.assertEqual(kinds[kind]["matrices"], 4)
            self.assertGreater(kinds[kind]["rank"], 0)
            self.assertLess(kinds[kind]["relative_error"], 1)
        self.assertGreater(self.report["calibration"]["tokens"], 0)

    def test_compress_measures_held_out_rows_as_eval_does(self):
        scored = self.json("eval", "--base", BASE, "--delta", self.archive, "--reference", FINETUNED, "--data", self.data,
                           "--no-generate")
        held_out = self.report["held_out"]
        self.assertEqual(held_out["tokens"], scored["tokens"])
        self.assertAlmostEqual(held_out["kl"], scored["kl"], delta=1e-6)
        self.assertAlmostEqual(held_out["top1"], scored["top1"], delta=1e-9)

    def test_inspect_json_has_the_promised_keys(self):
        info = self.json("inspect", self.archive)
        for key in ("method", "base", "bits_per_weight", "projection_bytes", "all_in_bytes", "ratio",
                    "tensors", "architecture", "embedding_bytes", "other_bytes", "header_bytes",
                    "tokenizer_bytes", "finetuned_bytes", "calibration", "kinds", "held_out"):
            self.assertIn(key, info)
        self.assertEqual(info["base"], "tiny-base")
        self.assertLessEqual(info["bits_per_weight"], 1.25)
        self.assertGreater(info["bits_per_weight"], 1.15)
        tokenizer = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                     "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                     "chat_template.jinja"}
        sizes = {name: len(data) for name, data in contents(self.archive).items()}
        self.assertEqual(info["all_in_bytes"], sum(n for f, n in sizes.items() if f not in tokenizer))
        self.assertEqual(info["all_in_bytes"], info["projection_bytes"] + info["embedding_bytes"]
                         + info["other_bytes"] + info["header_bytes"])
        self.assertAlmostEqual(info["ratio"], info["all_in_bytes"] / info["finetuned_bytes"], places=9)
        self.assertIn("q_proj", self.ok("inspect", self.archive).stdout)

    def test_bits_per_weight_stay_within_the_budget(self):
        for method, bits in (("come", 0.5), ("come", 2), ("lowrank", 1), ("bitdelta", 1.25)):
            with self.subTest(method=method, bits=bits):
                out = self.compress(f"{method}-{bits}", "--bits", bits, method=method)
                info = self.json("inspect", out)
                self.assertEqual(info["method"], method)
                self.assertLessEqual(info["bits_per_weight"], bits)
                self.ok("verify", out, "--base", BASE)

    def test_verify_accepts_it_and_its_base_alone(self):
        self.ok("verify", self.archive)
        self.ok("verify", self.archive, "--base", BASE)
        self.fails("verify", self.archive, "--base", FINETUNED, says=["tiny-base", "tiny-math"])

    def test_another_base_is_refused_by_name(self):
        out = self.scratch / "never"
        for arguments in (["generate", "--base", FINETUNED, "--delta", self.archive, "--prompt", "x"],
                          ["eval", "--base", FINETUNED, "--delta", self.archive, "--data", self.data],
                          ["merge", "--base", FINETUNED, "--delta", self.archive, "--out", out]):
            self.fails(*arguments, says=["tiny-base", "tiny-math"])
        self.assertFalse(out.exists())

    def damaged(self, name, change):
        copy = self.scratch / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.archive, copy)
        data = bytearray((copy / name).read_bytes())
        (copy / name).write_bytes(change(data))
        return copy

    def test_every_flipped_bit_and_lost_byte_is_found(self):
        def flip(offset, bit):
            def change(data):
                data[offset] ^= 1 << bit
                return data
            return change

        for name, data in contents(self.archive).items():
            n = len(data)
            offsets = sorted({0, 9, n // 3, n // 2, 7 * n // 8, n - 2, n - 1} & set(range(n)))
            changes = [(f"bit at {o}", flip(o, (o + 3) % 8)) for o in offsets]
            changes += [("truncated", lambda d: d[:-1]), ("longer", lambda d: d + b"\n"), ("empty", lambda d: b"")]
            for what, change in changes:
                with self.subTest(file=name, what=what):
                    self.fails("verify", self.damaged(name, change))

    def test_what_loading_reads_is_checked_by_loading(self):
        read_by_loading = ["MANIFEST.sha256", "delta_config.json", "delta.safetensors", "config.json",
                           "tokenizer.json", "tokenizer_config.json"]
        for name in read_by_loading:
            n = (self.archive / name).stat().st_size

            def flip(data, n=n):
                data[n // 2] ^= 0x10
                return data
            for what, change in (("flip", flip), ("truncate", lambda d: d[:-1])):
                with self.subTest(file=name, what=what):
                    copy = self.damaged(name, change)
                    self.fails("generate", "--base", BASE, "--delta", copy, "--prompt", "x")
                    self.fails("eval", "--base", BASE, "--delta", copy, "--data", self.data, "--limit", 1)
                    self.fails("merge", "--base", BASE, "--delta", copy, "--out", self.scratch / "never")

    def test_loading_notices_a_change_of_any_line_of_the_manifest_and_of_the_header(self):
        places = [("MANIFEST.sha256", o) for o in range(3, (self.archive / "MANIFEST.sha256").stat().st_size, 29)]
        header = (self.archive / "delta.safetensors").read_bytes()
        places.append(("delta.safetensors", header.index(b'"deltacome"') + 1))  # says nothing to the reader
        for name, offset in places:
            with self.subTest(file=name, offset=offset):
                def flip(data, offset=offset):
                    data[offset] ^= 1
                    return data
                self.fails("generate", "--base", BASE, "--delta", self.damaged(name, flip), "--prompt", "x")

    def test_a_missing_file_is_found(self):
        for name in contents(self.archive):
            copy = self.damaged(name, bytes)
            (copy / name).unlink()
            self.fails("verify", copy)

    def test_merge_equals_base_plus_decoded_delta_and_the_factored_run(self):
        merged = self.scratch / "merged"
        self.ok("merge", "--base", BASE, "--delta", self.archive, "--out", merged)
        worst, where = read_archive.compare(read_archive.Archive(self.archive), BASE, merged)
        self.assertLessEqual(worst, 1, where)
        result = self.json("eval", "--base", BASE, "--delta", self.archive, "--reference", merged, "--data", self.data)
        # Rounding (inputs of 8 bits, the merged weights to bf16) is little beside what compressing lost.
        lost = self.json("eval", "--base", BASE, "--delta", self.archive, "--reference", FINETUNED, "--data", self.data)
        self.assertLess(result["kl"], lost["kl"] / 100)
        self.assertGreater(result["top1"], 0.98)
        again = self.json("eval", "--base", BASE, "--model", merged, "--data", self.data)
        self.assertAlmostEqual(again["nll"], result["nll"], delta=0.01)
        self.fails("merge", "--base", BASE, "--delta", self.archive, "--out", merged, says=["merged"])

    def test_merge_writes_the_dtype_of_the_fine_tune(self):
        def to_f32(tensors):
            for name, (_, shape, data) in tensors.items():
                wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
                tensors[name] = ("F32", shape, wide.tobytes())
        for name, base, tuned, dtype in (("up", BASE, self.model("f32-tuned", to_f32), "F32"),
                                         ("down", self.model("f32-base", to_f32, of=BASE), FINETUNED, "BF16")):
            archive = self.compress(f"to-{name}", base=base, finetuned=tuned)
            merged = self.scratch / f"merged-{name}"
            self.ok("merge", "--base", base, "--delta", archive, "--out", merged)
            tensors, _ = read_safetensors(merged / "model.safetensors")
            self.assertEqual({t[0] for t in tensors.values()}, {dtype})

    def test_python_opens_what_is_written(self):
        merged = self.scratch / "merged-for-python"
        self.ok("merge", "--base", BASE, "--delta", self.archive, "--out", merged)
        for path in (self.archive / "delta.safetensors", merged / "model.safetensors"):
            with safe_open(path, framework="numpy") as opened:
                self.assertGreater(len(opened.keys()), 10)
        with safe_open(self.archive / "delta.safetensors", framework="numpy") as opened:
            self.assertEqual(opened.get_tensor(Q_PROJ).dtype, np.uint8)

    def test_an_existing_archive_is_not_overwritten(self):
        before = contents(self.archive)
        self.fails("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", self.archive, says=["tiny-math"])
        self.assertEqual(contents(self.archive), before)


class Reproducibility(CliTest):
    OPTIONS = ("--bits", "1.25", "--seed", "7", "--threads", "2")

    def test_the_same_seed_gives_the_same_bytes(self):
        first = contents(self.compress("first", *self.OPTIONS, "--calib", self.calib))
        self.assertEqual(contents(self.compress("second", *self.OPTIONS, "--calib", self.calib)), first)

    def test_a_killed_run_resumes_to_the_same_bytes(self):
        options = (*self.OPTIONS, "--calib", self.calib)
        began = time.monotonic()
        whole = contents(self.compress("whole", *options))
        seconds = time.monotonic() - began
        out = self.scratch / "killed"
        command = ["compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, "--method", "come", *options]
        kills = 0
        for share in (0.05, 0.3, 0.5, 0.7, 0.9):
            process = subprocess.Popen([PROGRAM, *map(str, command), *(["--resume"] if kills else [])],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=share * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            self.assertTrue(not out.exists() or contents(out) == whole, "a part of an archive is visible")
            if out.exists():
                break
        self.assertGreater(kills, 0)
        if not out.exists():
            self.ok(*command, "--resume")
        self.assertEqual(contents(out), whole)
        self.assertFalse((self.scratch / "killed.partial").exists())

    def test_resuming_a_finished_run_is_done_at_once(self):
        arguments = ["--bits", 1, "--method", "come", "--calib", self.calib, "--calib-tokens", 512]
        out = self.compress("finished", *arguments, method=None)
        before = contents(out)
        (self.scratch / "finished.partial").mkdir()  # killed before it was removed
        (self.scratch / "finished.partial/run.txt").write_text("x\n")
        report = self.json("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out,
                           "--resume", *arguments)
        self.assertEqual(report["summary"][0]["matrices"], 4)
        self.assertIn("finished before", report["notes"][0])
        self.assertEqual(contents(out), before)
        self.assertFalse((self.scratch / "finished.partial").exists())
        arguments[1] = 2
        self.fails("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, "--resume",
                   *arguments, says=["exists"])

    def test_files_that_are_needed_late_are_read_first(self):
        out = self.scratch / "never"
        for option in ("--calib", "--held-out"):
            done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, option,
                       self.scratch / "nowhere.jsonl")
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertFalse((self.scratch / "never.partial").exists())

    def test_resume_refuses_other_options(self):
        out = self.scratch / "other"
        command = [PROGRAM, "compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out,
                   "--method", "come", "--calib", self.calib]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial = self.scratch / "other.partial"
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not any(partial.glob("*")):
            time.sleep(0.005)
        process.kill()
        process.wait()
        if out.exists() or not partial.exists():
            self.skipTest("the run ended before it could be killed")
        whole = contents(self.compress("other-whole", "--bits", "2", "--calib", self.calib))
        # Other options than those of the unfinished run: refused, or begun anew; never mixed.
        done = run(*command[1:], "--bits", "2", "--resume")
        if done.returncode == 0:
            self.assertEqual(contents(out), whole)
        else:
            self.assertEqual(done.returncode, 1)
            self.assertFalse(out.exists())


class AutoCalibration(CliTest):
    """Where the text of `auto` comes from."""

    OPTIONS = ("--method", "auto", "--profile", "fast", "--bits", "1.25", "--threads", "2")
    GENERIC = [
        "The river rises in the hills north of the town and flows east for some forty miles before it meets the sea.",
        "In the spring of that year the council voted to build a new library on the site of the old market hall.",
        "She closed the door behind her, looked once more at the letter, and walked slowly down to the harbour.",
        "Most species of the family are found in warm waters, where they feed on small fish and crustaceans.",
        "The first edition was printed in London and sold out within a week, much to the surprise of its author.",
        "After the war the railway was closed, and the station became a school, then a warehouse, then a museum.",
    ]

    def note_on(self, name, *files):
        calib = [a for file in files for a in ("--calib", file)]
        report = self.json("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", self.scratch / name,
                           *self.OPTIONS, "--calib-tokens", 8192, *calib)
        return [note for note in report["notes"] if "generic" in note]

    def test_text_is_sampled_where_none_is_given(self):
        few = (*self.OPTIONS, "--calib-tokens", 4096, "--seed", 3)
        out = self.scratch / "sampled"
        report = self.json("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, *few,
                           "--held-out", self.data)
        self.assertEqual(report["method"], "auto")
        self.assertTrue(any("wrote 4096 tokens itself" in note for note in report["notes"]), report["notes"])
        self.assertLess(report["held_out"]["kl"], 2)  # the base's is above 2.5
        calibration = self.json("inspect", out)["calibration"]
        self.assertEqual(calibration, {"files": ["(sampled from the fine-tune)"], "tokens": 4096,
                                       "sequence_length": 512, "seed": 3})
        self.assertIn("sampled from the fine-tune", self.ok("inspect", out).stdout)
        listed = subprocess.run([sys.executable, ROOT / "tools/read_archive.py", out], capture_output=True, text=True)
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertIn("sampled from the fine-tune", listed.stdout)
        self.ok("verify", out, "--base", BASE)
        again = self.scratch / "sampled-again"
        self.ok("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", again, *few, "--held-out", self.data)
        self.assertEqual(contents(again), contents(out))
        resumed = self.json("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", out, "--resume", *few)
        self.assertIn("finished before", resumed["notes"][0])

    def test_generic_text_is_noted_and_the_tasks_own_is_not(self):
        generic = self.scratch / "generic.jsonl"
        generic.write_text("".join(json.dumps({"text": " ".join(self.GENERIC[i:] + self.GENERIC[:i])}) + "\n"
                                   for i in range(6)) * 12)
        own = ROOT / "tests/data/calib/math.jsonl"
        notes = self.note_on("on-generic", generic)
        self.assertEqual(len(notes), 1)
        self.assertIn("NLL", notes[0])
        self.assertEqual(self.note_on("on-own", own), [])
        self.assertEqual(self.note_on("on-both", own, generic), [])


class Checkpoints(CliTest):
    def refused(self, finetuned, *says, base=BASE):
        out = self.scratch / "refused"
        self.fails("compress", "--base", base, "--finetuned", finetuned, "--out", out, says=says)
        self.assertFalse(out.exists())

    def test_a_base_equal_to_the_fine_tune_gives_a_near_empty_archive(self):
        out = self.compress("nothing", finetuned=BASE)
        info = self.json("inspect", out)
        self.assertLess(info["all_in_bytes"], 20_000)
        self.assertEqual(info["projection_bytes"], 0)
        self.ok("inspect", out)
        self.ok("verify", out, "--base", BASE)
        result = self.json("eval", "--base", BASE, "--delta", out, "--reference", BASE, "--data", self.data, "--no-generate")
        self.assertLess(result["kl"], 1e-9)
        merged = self.scratch / "nothing-merged"
        self.ok("merge", "--base", BASE, "--delta", out, "--out", merged)
        want = read_archive.read_checkpoint(BASE)
        got = read_archive.read_checkpoint(merged)
        self.assertEqual({n: bytes(t[2]) for n, t in got.items()}, {n: bytes(t[2]) for n, t in want.items()})

    def test_a_missing_tensor_is_named(self):
        self.refused(self.model("missing", lambda t: t.pop(Q_PROJ)), Q_PROJ)

    def test_a_tied_model_may_store_its_head_too(self):
        def tie(name, of, head):
            def change(tensors):
                tensors["lm_head.weight"] = tensors[head]
            out = self.model(name, change, of=of)
            config = json.loads((out / "config.json").read_text())
            config["tie_word_embeddings"] = True
            (out / "config.json").write_text(json.dumps(config))
            return out
        base = tie("tied-base", BASE, "model.embed_tokens.weight")
        tuned = tie("tied-tuned", FINETUNED, "model.embed_tokens.weight")
        archive = self.compress("tied", base=base, finetuned=tuned)
        self.ok("generate", "--base", base, "--delta", archive, "--prompt", "Tom", "--max-tokens", 2)
        untied = tie("untied", FINETUNED, "lm_head.weight")  # a head of its own
        self.fails("compress", "--base", base, "--finetuned", untied, "--out", self.scratch / "never",
                   says=["lm_head.weight"])

    def test_another_shape_is_named(self):
        def change(tensors):
            dtype, (rows, cols), data = tensors[Q_PROJ]
            tensors[Q_PROJ] = (dtype, [rows - 1, cols], data[:(rows - 1) * cols * 2])
        self.refused(self.model("shape", change), Q_PROJ, "255", "256")

    def test_nan_and_infinity_are_reported_by_tensor(self):
        for name, bits in (("nan", 0x7FC0), ("inf", 0xFF80)):
            def change(tensors):
                dtype, shape, data = tensors[Q_PROJ]
                tensors[Q_PROJ] = (dtype, shape, data[:4000] + struct.pack("<H", bits) + data[4002:])
            with self.subTest(value=name):
                self.refused(self.model(name, change), Q_PROJ)
                self.refused(FINETUNED, Q_PROJ, base=self.model(f"base-{name}", change, of=BASE))

    def test_added_vocabulary_rows_are_kept(self):
        def change(tensors):
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                dtype, (rows, cols), data = tensors[name]
                tensors[name] = (dtype, [rows + 3, cols], data + data[:3 * cols * 2])
        grown = self.model("grown", change)
        config = json.loads((grown / "config.json").read_text())
        config["vocab_size"] += 3
        (grown / "config.json").write_text(json.dumps(config))
        archive = self.compress("grown-delta", "--bits", "2", finetuned=grown)
        merged = self.scratch / "grown-merged"
        self.ok("merge", "--base", BASE, "--delta", archive, "--out", merged)
        worst, where = read_archive.compare(read_archive.Archive(archive), BASE, merged)
        self.assertLessEqual(worst, 1, where)
        want = read_archive.read_checkpoint(grown)["lm_head.weight"]
        got = read_archive.read_checkpoint(merged)["lm_head.weight"]
        self.assertEqual(bytes(got[2])[-3 * 256 * 2:], bytes(want[2])[-3 * 256 * 2:])
        self.ok("generate", "--base", BASE, "--delta", archive, "--prompt", "Tom", "--max-tokens", 8)

    def test_malformed_safetensors_exit_with_1(self):
        good = (FINETUNED / "model.safetensors").read_bytes()
        (size,) = struct.unpack_from("<Q", good)
        header = json.loads(good[8:8 + size])

        def with_header(edit):
            changed = json.loads(json.dumps(header))
            edit(changed[Q_PROJ])
            text = json.dumps(changed).encode()
            return struct.pack("<Q", len(text)) + text + good[8 + size:]

        cases = {
            "empty": b"",
            "short": good[:5],
            "truncated": good[:-1],
            "trailing": good + b"x",
            "huge header": struct.pack("<Q", 1 << 62) + good[8:],
            "header is no JSON": good[:8] + b"\xff" * size + good[8 + size:],
            "overlap": with_header(lambda t: t.update(data_offsets=[0, t["data_offsets"][1] - t["data_offsets"][0]])),
            "backwards": with_header(lambda t: t.update(data_offsets=t["data_offsets"][::-1])),
            "overflow": with_header(lambda t: t.update(shape=[1 << 62, 1 << 62])),
            "negative": with_header(lambda t: t.update(shape=[-256, -256])),
            "unknown type": with_header(lambda t: t.update(dtype="Q7")),
        }
        for what, data in cases.items():
            with self.subTest(what=what):
                broken = self.scratch / f"broken-{what.replace(' ', '-')}"
                shutil.copytree(FINETUNED, broken)
                (broken / "model.safetensors").write_bytes(data)
                self.refused(broken, "model.safetensors")
                self.fails("generate", "--base", broken, "--prompt", "x", says=["model.safetensors"])

    def test_unknown_architectures_list_the_known(self):
        odd = self.scratch / "odd"
        shutil.copytree(FINETUNED, odd)
        config = json.loads((odd / "config.json").read_text())
        config["architectures"] = ["MambaForCausalLM"]
        config["model_type"] = "mamba"
        (odd / "config.json").write_text(json.dumps(config))
        self.fails("generate", "--base", odd, "--prompt", "x", says=["amba", "lama", "istral", "wen"])


class Evaluation(CliTest):
    def test_a_model_against_itself(self):
        for choice in (["--base", BASE], ["--base", BASE, "--model", FINETUNED]):
            reference = choice[-1]
            result = self.json("eval", *choice, "--reference", reference, "--data", self.data)
            self.assertLess(abs(result["kl"]), 1e-9)
            self.assertEqual(result["top1"], 1)
            self.assertEqual(result["rows"], 6)
            self.assertGreater(result["tokens"], 6)
            self.assertGreaterEqual(result["exact_match"], 0)

    def test_what_was_not_measured_is_null(self):
        result = self.json("eval", "--base", BASE, "--data", self.data, "--no-generate", "--limit", 2)
        self.assertEqual([result[k] for k in ("kl", "top1", "exact_match")], [None] * 3)
        self.assertEqual(result["rows"], 2)
        self.assertGreater(result["nll"], 0)
        self.assertIn("NLL", self.ok("eval", "--base", BASE, "--data", self.data, "--no-generate").stdout)

    def test_generations_are_written_row_by_row(self):
        path = self.scratch / "generations.jsonl"
        self.json("eval", "--base", BASE, "--model", FINETUNED, "--data", self.data, "--max-tokens", 12, "--generations", path)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual(len(rows), 6)
        for row in rows:
            self.assertIn("prompt", row)
            self.assertIn("completion", row)

    def test_bad_rows_are_named_by_line(self):
        bad = self.scratch / "bad.jsonl"
        good = self.data.read_text().splitlines()[0]
        for line in ("{", "[]", '{"prompt": "x"}', '{"prompt": 3, "response": "y"}'):
            bad.write_text(good + "\n" + line + "\n")
            with self.subTest(line=line):
                self.fails("eval", "--base", BASE, "--data", bad, says=["bad.jsonl", "2"])


class Generation(CliTest):
    def test_the_context_bounds_prompt_and_completion(self):
        self.fails("generate", "--base", BASE, "--prompt", "x " * 2048, says=["2048"])
        answer = self.json("generate", "--base", BASE, "--prompt", "x " * 1000, "--max-tokens", 1 << 30)
        self.assertLessEqual(answer["prompt_tokens"] + answer["completion_tokens"], 2048)

    def generate(self, *options):
        return self.json("generate", "--base", BASE, "--model", FINETUNED, "--prompt", PROMPT.format(12, 7), "--max-tokens", 24, *options)

    def test_greedy_is_deterministic_and_streams_the_same_text(self):
        first = self.generate()
        self.assertEqual(self.generate()["token_ids"], first["token_ids"])
        self.assertEqual(self.generate("--threads", 1)["token_ids"], first["token_ids"])
        streamed = self.ok("generate", "--model", FINETUNED, "--prompt", PROMPT.format(12, 7), "--max-tokens", 24)
        self.assertEqual(streamed.stdout, first["text"] + "\n")
        self.assertIn(first["finish_reason"], ("stop", "length"))
        self.assertLessEqual(first["completion_tokens"], 24)

    def test_the_seed_decides_what_is_sampled(self):
        hot = ("--temperature", 1.5, "--top-k", 200, "--top-p", 0.99, "--min-p", 0.001)
        first = self.generate(*hot, "--seed", 5)
        self.assertEqual(self.generate(*hot, "--seed", 5)["token_ids"], first["token_ids"])
        others = [self.generate(*hot, "--seed", seed)["token_ids"] for seed in (6, 7, 8)]
        self.assertTrue(any(ids != first["token_ids"] for ids in others))
        greedy = self.generate()["token_ids"]
        self.assertEqual(self.generate("--temperature", 1.5, "--top-k", 1, "--seed", 9)["token_ids"], greedy)

    def test_chat_uses_the_template_and_begins_like_the_prompt(self):
        question = "Tom has 12 apples. Tom buys 7 apples. How many apples does Tom have now?"
        chat = self.json("generate", "--model", FINETUNED, "--chat", question, "--max-tokens", 24)
        self.assertEqual(chat["token_ids"], self.generate()["token_ids"])
        self.assertEqual(chat["prompt_tokens"], self.generate()["prompt_tokens"])

    def test_a_chat_template_that_cannot_be_used_stops_only_chats(self):
        model = self.scratch / "include"
        shutil.copytree(BASE, model)
        (model / "chat_template.jinja").write_text("{% include 'other' %}")
        self.ok("generate", "--base", model, "--prompt", "Tom", "--max-tokens", 1)
        self.fails("generate", "--base", model, "--chat", "Tom", says=["include"])

    def test_the_delta_stays_packed(self):
        archive = self.compress("packed", "--bits", "1.25", "--calib", self.calib)
        result = self.json("generate", "--base", BASE, "--delta", archive, "--prompt", "Tom", "--max-tokens", 4)
        tensors = (archive / "delta.safetensors").stat().st_size
        self.assertGreater(result["delta_bytes"], 0)
        self.assertLessEqual(result["delta_bytes"], 1.2 * tensors)

    def test_odd_prompts(self):
        for prompt in ("", " ", "\u00e9\U0001F600\u4e2d", "--json", "<s></s>"):
            with self.subTest(prompt=prompt):
                self.json("generate", "--base", BASE, "--prompt", prompt, "--max-tokens", 4)


if __name__ == "__main__":
    unittest.main()
