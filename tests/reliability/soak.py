#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A server under loads, unloads and faults for a long time. Not part of the default run.

    tests/reliability/soak.py [--minutes 60]        DELTACOME=build/release/bin/deltacome

Every answer must be the one that its variant gives alone, every error one that was asked for, and
neither resident memory nor open descriptors may grow. Prints one JSON object; exit status 1 if
something was wrong."""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, FINETUNED, PROMPT, run  # noqa: E402

METHODS = {"math": ["bitdelta"], "low": ["lowrank", "--bits", "2"], "come": ["come", "--bits", "2"]}
SAMPLE_S = 2
# Small enough for all its blocks to be used, and so to be resident, in the first minutes: after that
# any growth is one of the server.
KV_CACHE_GIB = 0.016


class Soak:
    def __init__(self, scratch, seconds):
        self.scratch, self.seconds = scratch, seconds
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counts, self.problems, self.samples = {}, [], []
        self.archives = {}
        for name, method in METHODS.items():
            self.archives[name] = scratch / name
            done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", scratch / name,
                       "--distill", "0", "--method", *method)
            assert done.returncode == 0, done.stderr
        self.broken = scratch / "broken"
        shutil.copytree(self.archives["low"], self.broken)
        weights = self.broken / "delta.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def expect(self, what, status, got, said):
        self.count(what)
        if got != status:
            with self.lock:
                self.problems.append(f"{what}: status {got}, expected {status}: {str(said)[:200]}")

    def ask_all(self, seed):
        """Answers, whole and streamed."""
        source = random.Random(seed)
        while not self.over.is_set():
            model, prompt = job = source.choice(list(self.alone))
            body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
            if source.random() < 0.5:
                status, said = self.server.ask("POST", "/v1/completions", body)
                text = said["choices"][0]["text"] if status == 200 else said
            else:
                status, said = self.server.ask("POST", "/v1/completions", body | {"stream": True})
                events = re.findall(r"data: (.*)\n\n", said) if status == 200 else ["", ""]
                text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1] if e)
            self.expect("answers", 200, status, said)
            if status == 200 and text != self.alone[job]:
                with self.lock:
                    self.problems.append(f"{job[0]}: {text!r} is not what it says alone")

    def churn(self, _):
        """Loads, replacements, unloads."""
        while not self.over.is_set():
            for name in ("low", "come"):
                status, said = self.server.ask("POST", "/v1/deltas", {
                    "name": "extra", "path": str(self.archives[name]), "replace": True})
                self.expect("loads", 200, status, said)
            status, said = self.server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": "extra"})
            self.expect("unloads", 200, status, said)
            time.sleep(0.05)

    def disturb(self, seed):
        """Faults, each with the status that it must have."""
        source = random.Random(seed)
        faults = (("POST", "/v1/deltas", {"name": "broken", "path": str(self.broken)}, 400),
                  ("POST", "/v1/deltas", {"name": "x", "path": "/etc"}, 403),
                  ("POST", "/v1/completions", {"model": "none", "prompt": "x"}, 404),
                  ("POST", "/v1/completions", {"prompt": "x", "temperature": -1}, 400),
                  ("DELETE", "/v1/deltas/none", None, 404), ("GET", "/v1/completions", None, 405))
        while not self.over.is_set():
            method, path, body, status = source.choice(faults)
            got, said = self.server.ask(method, path, body)
            self.expect("faults", status, got, said)
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as client:
                text = json.dumps({"prompt": "x", "max_tokens": 400, "ignore_eos": True,
                                   "stream": True})
                client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                               f"{len(text)}\r\n\r\n{text}".encode()[:source.choice((20, 9999))])
                if source.random() < 0.5:
                    client.settimeout(0.2)
                    try:
                        client.recv(100)
                    except TimeoutError:
                        pass
            self.count("disconnects")
            time.sleep(0.05)

    def guard(self, part, seed):
        try:
            part(seed)
        except Exception as error:  # noqa: BLE001: whatever it is, it was not asked for
            with self.lock:
                self.problems.append(f"{part.__name__}: {error!r}")

    def sample(self):
        root = pathlib.Path("/proc") / str(self.server.process.pid)
        resident = re.search(r"VmRSS:\s+(\d+)", (root / "status").read_text())
        cached = self.server.ask("GET", "/debug/state")[1]["engine"]["kv_blocks_cached"]
        self.samples.append((int(resident.group(1)) / 1000, len(os.listdir(root / "fd")), cached))

    def run(self):
        with ServedProgram("--allow-root", self.scratch, *(
                f"--delta={name}={path}" for name, path in self.archives.items()),
                kv_cache_gib=KV_CACHE_GIB) as self.server:
            prompts = [PROMPT.format(a, b) for a, b in ((12, 7), (3, 4), (50, 9), (8, 8))]
            self.alone = {(model, prompt): self.server.complete(model, prompt=prompt)
                          for model in ("tiny-base", *METHODS) for prompt in prompts}
            parts = [(self.ask_all, i) for i in range(4)] + [(self.churn, 0), (self.disturb, 9)]
            threads = [threading.Thread(target=self.guard, args=part) for part in parts]
            for thread in threads:
                thread.start()
            end = time.monotonic() + self.seconds
            while time.monotonic() < end and self.server.process.poll() is None:
                self.sample()
                time.sleep(SAMPLE_S)
            self.over.set()
            for thread in threads:
                thread.join()
            _, state = self.server.ask("GET", "/debug/state")
            if state["engine"]["failed"]:
                self.problems.append(f"the engine counts {state['engine']['failed']} failed answers")
        return self.report()

    def report(self):
        """Growth: the median of the last quarter against that of the second; the first warms up."""
        quarter = max(1, len(self.samples) // 4)
        early, late = self.samples[quarter:2 * quarter], self.samples[-quarter:]
        median = lambda samples, i: statistics.median(s[i] for s in samples)
        resident, descriptors = ((median(early, i), median(late, i)) for i in (0, 1))
        if resident[1] > resident[0] * 1.05 + 2:
            self.problems.append(f"resident memory has grown from {resident[0]} to {resident[1]} MB")
        if descriptors[1] > descriptors[0] + 4:
            self.problems.append(f"descriptors have grown from {descriptors[0]} to {descriptors[1]}")
        return {"seconds": self.seconds, "counts": self.counts,
                "resident_mb": {"second_quarter": resident[0], "last_quarter": resident[1],
                                "most": max(s[0] for s in self.samples)},
                "kv_blocks_cached": {"second_quarter": median(early, 2), "last_quarter": median(late, 2)},
                "resident_mb_by_tenth": [self.samples[i * len(self.samples) // 10][0] for i in range(10)],
                "descriptors": {"second_quarter": descriptors[0], "last_quarter": descriptors[1]},
                "problems": self.problems[:20], "n_problems": len(self.problems)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deltacome-soak-") as scratch:
        report = Soak(pathlib.Path(scratch), args.minutes * 60).run()
    print(json.dumps(report))
    return 1 if report["n_problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
