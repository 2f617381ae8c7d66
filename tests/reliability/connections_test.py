# SPDX-License-Identifier: Apache-2.0
"""Many clients at once, most of them bad: the streams of the good ones are whole, and the server's
memory is bounded. 120 good streams; 1,000 with DELTACOME_LONG_TESTS=1."""

import asyncio
import json
import os
import pathlib
import resource
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, FINETUNED, PROMPT, CliTest, run  # noqa: E402

LONG = os.environ.get("DELTACOME_LONG_TESTS") == "1"
N_STREAMS = 1000 if LONG else 120
N_BAD = N_STREAMS // 10  # of each kind
MODELS = ("tiny-base", "math")
LIMIT_S = 300


def post(path, body):
    text = json.dumps(body)
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}").encode()


def stream_of(model, **fields):
    return post("/v1/completions", {"model": model, "prompt": PROMPT.format(12, 7), "max_tokens": 24,
                                    "temperature": 0, "stream": True} | fields)


def text_of(data):
    """Of a stream, without its chunked framing; an AssertionError if it is not whole."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size, 16)
        body += rest[:n]
        rest = rest[n + 2:]
    events = [e.removeprefix("data: ") for e in body.decode().split("\n\n") if e]
    assert events[-1] == "[DONE]", events[-1:]
    return "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])


class Clients:
    """Kinds of clients of one server."""

    def __init__(self, port):
        self.port = port
        self.over = asyncio.Event()  # for those that only stay

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def good(self, model, piece=1 << 16, pause=0.0):
        reader, writer = await self.open()
        writer.write(stream_of(model))
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            part = await reader.read(piece)
            assert part, f"the connection ended after {data[-100:]}"
            data += part
            if pause:
                await asyncio.sleep(pause)
        writer.close()
        return text_of(data)

    async def silent(self):
        """A connection that says nothing; at the end it is reset."""
        _, writer = await self.open()
        await self.over.wait()
        writer.transport.abort()

    async def slowloris(self):
        """Headers without an end, a few bytes at a time."""
        _, writer = await self.open()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        while not self.over.is_set() and not writer.is_closing():
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.3)
        writer.close()

    async def leaves(self, model):
        """Goes after the first piece of a long stream."""
        reader, writer = await self.open()
        writer.write(stream_of(model, max_tokens=400, ignore_eos=True))
        data = b""
        while b"data: {" not in data:
            part = await reader.read(4096)
            assert part
            data += part
        writer.transport.abort()

    async def refused(self, request, status):
        reader, writer = await self.open()
        writer.write(request)
        head = await reader.readuntil(b"\r\n")
        assert head.startswith(f"HTTP/1.1 {status}".encode()), head
        writer.close()

    async def pipelined(self, model):
        """Several requests in one write; the answers come in their order."""
        reader, writer = await self.open()
        counts = [3, 1, 5, 2]
        writer.write(b"".join(post("/v1/completions", {
            "model": model, "prompt": "x", "max_tokens": n, "ignore_eos": True}) for n in counts))
        for n in counts:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.split("content-length: ")[1].split("\r\n")[0])
            body = json.loads(await reader.readexactly(size))
            assert body["usage"]["completion_tokens"] == n, body
        writer.close()


class ConnectionsTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
        archive = cls.scratch / "math"
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", archive,
                   "--method", "bitdelta", "--distill", "0")
        assert done.returncode == 0, done.stderr
        cls.server = ServedProgram("--delta", f"math={archive}", "--max-waiting", "8192",
                                   "--max-waiting-per-tenant", "8192", "--max-requests", "8192")
        cls.addClassCleanup(cls.server.__exit__)
        cls.want = {model: cls.server.complete(model) for model in MODELS}
        assert cls.want["math"] != cls.want["tiny-base"]

    def resident_mb(self):
        for line in pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
        raise AssertionError("no VmRSS")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))

    async def mixed(self):
        """Everything at once; what the good streams gave, and the most memory."""
        clients = Clients(self.server.port)
        stay = [asyncio.create_task(f()) for f in (clients.silent, clients.slowloris)
                for _ in range(N_BAD)]
        models = [MODELS[i % 2] for i in range(N_STREAMS)]
        good = [asyncio.create_task(
            clients.good(m, 200, 0.02) if i % 10 == 0 else clients.good(m))
            for i, m in enumerate(models)]
        big = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        bad = [clients.leaves(MODELS[i % 2]) for i in range(N_BAD)]
        bad += [clients.refused(request, status) for request, status in (
            (big, 413), (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400), (b"GET /\r\n\r\n", 400),
            (b"GET /health HTTP/1.1\r\nX: " + b"y" * 40000 + b"\r\n\r\n", 431),
            (post("/v1/completions", {"prompt": 1}), 400),
            (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
             b"Transfer-Encoding: chunked\r\n\r\n", 400)) for _ in range(N_BAD)]
        bad += [clients.pipelined(MODELS[i % 2]) for i in range(N_BAD)]
        most = self.resident_mb()
        gathered = asyncio.gather(*good, *bad)
        while not gathered.done():
            await asyncio.wait([gathered], timeout=0.1)
            most = max(most, self.resident_mb())
        clients.over.set()
        await asyncio.gather(*stay)
        return models, gathered.result()[:N_STREAMS], most

    def test_good_streams_are_whole_among_bad_clients(self):
        idle, descriptors = self.resident_mb(), self.descriptors()
        began = time.monotonic()
        models, texts, most = asyncio.run(asyncio.wait_for(self.mixed(), LIMIT_S))
        took = time.monotonic() - began
        for model, text in zip(models, texts):
            self.assertEqual(text, self.want[model])
        print(f"\n{N_STREAMS} streams in {took:.1f} s among {10 * N_BAD} bad and pipelining clients; "
              f"resident {idle:.0f} MB before, at most {most - idle:.0f} MB more", flush=True)
        self.assertLess(most - idle, 100)
        engine = lambda: self.server.ask("GET", "/debug/state")[1]["engine"]
        self.server.wait_for(lambda: engine()["running"] + engine()["waiting"] == 0)
        self.server.wait_for(lambda: self.descriptors() <= descriptors + 2)
        self.assertGreaterEqual(engine()["cancelled"], 1)
        self.assertEqual(engine()["failed"], 0)
        self.assertEqual(self.server.complete("math"), self.want["math"])


if __name__ == "__main__":
    unittest.main()
