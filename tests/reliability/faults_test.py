# SPDX-License-Identifier: Apache-2.0
"""Faults around a running server: whatever happens to one variant, the others answer as they do
alone, and the error names the cause."""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, FINETUNED, PROGRAM, PROMPT, CliTest, contents, run  # noqa: E402

METHODS = {"math": "bitdelta", "low": "lowrank", "come": "come"}


class FaultsTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.archives = {}
        for name, method in METHODS.items():
            cls.archives[name] = cls.scratch / "archives" / name
            cls.archives[name].parent.mkdir(exist_ok=True)
            options = [] if method == "bitdelta" else ["--bits", "2"]
            done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out",
                       cls.archives[name], "--method", method, "--distill", "0", *options)
            assert done.returncode == 0, done.stderr

    def serve(self, *options):
        return ServedProgram("--delta", f"math={self.archives['math']}", "--allow-root",
                             self.scratch, *options)

    def test_kill_during_loads_and_restart(self):
        before = {name: contents(path) for name, path in self.archives.items()}
        want = None
        for attempt in range(4):
            with self.serve() as server:
                if want is None:
                    want = server.complete("math")
                self.assertEqual(server.complete("math"), want)
                for name in ("low", "come"):
                    status, _ = server.ask("POST", "/v1/deltas", {
                        "name": name, "path": str(self.archives[name]), "wait": False})
                    self.assertEqual(status, 202)
                time.sleep(0.02 * attempt)
                server.process.kill()
                server.process.wait()
        self.assertEqual(before, {name: contents(path) for name, path in self.archives.items()})

    def test_an_archive_of_another_base(self):
        other = self.scratch / "other"
        done = run("compress", "--base", FINETUNED, "--finetuned", BASE, "--out", other, "--method",
                   "bitdelta", "--distill", "0")
        self.assertEqual(done.returncode, 0, done.stderr)
        with self.serve() as server:
            want = server.complete("math")
            status, error = server.ask("POST", "/v1/load_lora_adapter",
                                       {"lora_name": "other", "lora_path": str(other)})
            self.assertEqual(status, 400, error)
            hashes = {json.loads((path / "delta_config.json").read_text())["base"]["sha256"]
                      for path in (other, self.archives["math"])}
            self.assertEqual(len(hashes), 2)
            for each in hashes:
                self.assertIn(each[:12], error["error"]["message"])
            self.assertEqual(server.complete("math"), want)

    def test_every_file_of_an_archive_may_be_damaged(self):
        with self.serve() as server:
            want = server.complete("math")
            for name in sorted(contents(self.archives["low"])):
                for how in ("cut", "flipped", "gone"):
                    bad = self.scratch / f"bad-{how}-{name}"
                    shutil.copytree(self.archives["low"], bad)
                    file = bad / name
                    data = bytearray(file.read_bytes())
                    if how == "gone":
                        file.unlink()
                    elif how == "cut":
                        file.write_bytes(data[:len(data) * 2 // 3])
                    else:
                        data[len(data) // 2] ^= 1
                        file.write_bytes(data)
                    status, error = server.ask("POST", "/v1/deltas", {"name": "bad", "path": str(bad)})
                    shutil.rmtree(bad)
                    self.assertIn(status, (400, 404, 403), (name, how, error))
                    self.assertTrue(error["error"]["message"], (name, how))
                    self.assertNotIn("bad", [d["name"] for d in server.ask("GET", "/v1/deltas")[1]["data"]])
            self.assertEqual(server.complete("math"), want)
            self.assertEqual(server.ask("GET", "/debug/state")[1]["engine"]["failed"], 0)

    def test_files_replaced_while_they_are_loaded(self):
        with self.serve() as server:
            wants = {server.complete("math")}
            alone = server.complete("math")
            for name in ("low", "come"):
                server.ask("POST", "/v1/deltas", {"name": name, "path": str(self.archives[name])})
                wants.add(server.complete(name))
            place = self.scratch / "place"
            shutil.copytree(self.archives["low"], place)
            over = threading.Event()

            def replace():
                source = random.Random(1)
                while not over.is_set():
                    archive = self.archives[source.choice(list(self.archives))]
                    for file in archive.iterdir():
                        shutil.copyfile(file, place / ".new")
                        os.replace(place / ".new", place / file.name)
            writer = threading.Thread(target=replace)
            writer.start()
            outcomes = {200: 0, 400: 0}
            try:
                for _ in range(40):
                    status, error = server.ask("POST", "/v1/deltas", {
                        "name": "moving", "path": str(place), "replace": True})
                    self.assertIn(status, (200, 400), error)
                    outcomes[status] += 1
                    if status == 400:
                        self.assertRegex(error["error"]["message"],
                                         r"SHA-256|hash|manifest|bytes|tensor|changed|file")
                    else:
                        self.assertIn(server.complete("moving"), wants)
                    self.assertEqual(server.complete("math"), alone)
            finally:
                over.set()
                writer.join()
            self.assertGreater(outcomes[400], 0)  # otherwise nothing was tested

    @unittest.skipIf(os.geteuid() != 0, "mounting a small file system needs root")
    def test_a_full_disk(self):
        disk = self.scratch / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk],
                                 capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting a small file system is not allowed")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=True)
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", disk / "a",
                   "--method", "bitdelta", "--distill", "0")
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left on device", done.stderr)
        self.assertFalse((disk / "a").exists())  # what is done is in a.partial, for --resume
        shutil.rmtree(disk / "a.partial", ignore_errors=True)
        with ServedProgram("--delta", f"math={self.archives['math']}", "--model-dir", disk) as server:
            want = server.complete("math")
            try:
                shutil.copytree(self.archives["low"], disk / "low")  # as a sync tool would
            except shutil.Error:
                pass
            status, error = server.ask("POST", "/v1/completions", {"model": "low", "prompt": "x"})
            self.assertIn(status, (400, 404), error)
            self.assertEqual(server.complete("math"), want)

    def answers_with_log_to(self, stderr, n_requests):
        with ServedProgram() as other:
            port = other.port  # free again soon
        process = subprocess.Popen(
            [PROGRAM, "serve", "--base", BASE, "--port", str(port), "--threads", "1",
             "--kv-cache-gib", "0.1"], stderr=stderr, stdin=subprocess.DEVNULL)
        try:
            def answers():
                try:
                    return other.ask("GET", "/health")[0] == 200
                except OSError:
                    return False
            other.wait_for(answers)
            for _ in range(n_requests):
                self.assertTrue(other.complete("tiny-base", max_tokens=1, ignore_eos=True))
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()

    def test_a_log_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            self.answers_with_log_to(full, 3)

    def test_a_log_that_nobody_reads(self):
        self.answers_with_log_to(subprocess.PIPE, 700)  # a pipe holds 64 KiB

    def test_answers_in_a_storm_are_those_of_the_variant_alone(self):
        """Whole, streamed and broken off, while a variant comes, goes and is replaced."""
        prompts = [PROMPT.format(a, b) for a, b in ((12, 7), (3, 4), (50, 9))]
        with self.serve("--delta", f"low={self.archives['low']}", "--delta",
                        f"come={self.archives['come']}") as server:
            jobs = [(model, prompt) for model in ("tiny-base", *METHODS) for prompt in prompts]
            ask = lambda model, prompt: server.complete(model, prompt=prompt)
            alone = {job: ask(*job) for job in jobs}
            self.assertGreater(len(set(alone.values())), len(prompts))  # variants differ

            def one(i):
                model, prompt = job = jobs[i % len(jobs)]
                if i % 3:
                    return job, ask(model, prompt)
                _, stream = server.ask("POST", "/v1/completions", {
                    "model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0,
                    "stream": True})
                events = re.findall(r"data: (.*)\n\n", stream)
                assert events[-1] == "[DONE]", events[-1:]
                return job, "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
            over = threading.Event()
            churned = [0]

            def churn():
                while not over.is_set():
                    for name in ("low", "come"):
                        status, said = server.ask("POST", "/v1/deltas", {
                            "name": "extra", "path": str(self.archives[name]), "replace": True})
                        assert status == 200, said
                    status, said = server.ask("DELETE", "/v1/deltas/extra")
                    assert status == 200, said
                    churned[0] += 1
            with concurrent.futures.ThreadPoolExecutor(25) as pool:
                churning = pool.submit(churn)
                try:
                    for job, text in pool.map(one, range(240)):
                        self.assertEqual(text, alone[job], job)
                finally:
                    over.set()
                churning.result()
            self.assertGreater(churned[0], 0)


if __name__ == "__main__":
    unittest.main()
