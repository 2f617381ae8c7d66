# SPDX-License-Identifier: Apache-2.0
"""`deltacome serve` as a process, with the real engine and archives."""

import concurrent.futures
import hashlib
import http.client
import json
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
import unittest

import support
from support import BASE, FINETUNED, PROMPT, CliTest, command, run


class ServedProgram:
    """A running server; ends with the block."""

    def __init__(self, *options, base=BASE, kv_cache_gib=0.25):
        self.process = subprocess.Popen(
            command("serve", "--base", base, "--port", "0", "--threads", "1",
                    "--kv-cache-gib", kv_cache_gib, *options),
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening on https?://[^ ]*:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
        else:
            raise AssertionError("".join(self.lines))
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def read_log(self):
        """A pipe that nobody reads would fill up, and the server would wait for it."""
        for line in self.process.stderr:
            self.lines.append(line)

    def log(self):
        """All of it; the server has ended."""
        self.reader.join()
        return "".join(self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def ask(self, method, path, body=None, key=None):
        """Status and body, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read().decode()
        connection.close()
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return response.status, json.loads(data) if is_json else data

    def complete(self, model, **fields):
        body = {"model": model, "prompt": PROMPT.format(12, 7), "max_tokens": 24, "temperature": 0}
        status, answer = self.ask("POST", "/v1/completions", body | fields)
        assert status == 200, answer
        return answer["choices"][0]["text"]

    def wait_for(self, condition):
        for _ in range(400):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("it did not happen")


class ServedVariantTest(CliTest):
    """A server of the base and of its fine-tune as the variant "math", for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        archive = cls.scratch / "math"
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", archive,
                   "--method", "bitdelta", "--distill", "0")
        assert done.returncode == 0, done.stderr
        cls.server = ServedProgram("--delta", f"math={archive}")
        cls.addClassCleanup(cls.server.__exit__)


class ServeTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.archive = cls.scratch / "math"
        done = support.run("compress", "--base", BASE, "--finetuned", support.FINETUNED, "--out",
                           cls.archive, "--method", "bitdelta", "--distill", "0")
        assert done.returncode == 0, done.stderr

    def generated(self, *options):
        text = self.json("generate", "--base", BASE, "--prompt", PROMPT.format(12, 7),
                         "--max-tokens", "24", "--temperature", "0", *options)["text"]
        return text

    def test_answers_are_those_of_generate_for_base_and_variant(self):
        want = {"tiny-base": self.generated(), "math": self.generated("--delta", self.archive)}
        self.assertNotEqual(want["tiny-base"], want["math"])
        with ServedProgram("--delta", f"math={self.archive}") as server:
            jobs = ["tiny-base", "math"] * 8
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                for model, text in zip(jobs, pool.map(server.complete, jobs)):
                    self.assertEqual(text, want[model], model)
            status, models = server.ask("GET", "/v1/models")
            self.assertEqual([m["id"] for m in models["data"]], ["tiny-base", "math"])
            card = models["data"][1]
            self.assertEqual(card["parent"], "tiny-base")
            self.assertEqual(card["delta"]["about"]["method"], "bitdelta")
            self.assertGreater(card["delta"]["bytes"], 0)
            _, metrics = server.ask("GET", "/metrics")
            self.assertIn('deltacome:variant_requests_total{variant="math"} 8', metrics)
            self.assertIn("vllm:time_to_first_token_seconds_count", metrics)
            steps = re.search(r"deltacome:engine_steps_total.* (\d+)", metrics).group(1)
            self.assertIn(f'vllm:iteration_tokens_total_count{{model_name="tiny-base",engine="0"}} {steps}',
                          metrics)

    def test_tokenizer_info_is_the_variants_own(self):
        with ServedProgram("--delta", f"math={self.archive}") as server:
            status, base = server.ask("GET", "/tokenizer_info")
            self.assertEqual(status, 200)
            self.assertEqual(base, json.loads((BASE / "tokenizer_config.json").read_text()))
            config = self.archive / "tokenizer_config.json"
            old = config.read_text()
            try:
                config.write_text(json.dumps({"model_max_length": 7}))
                (self.archive / "chat_template.jinja").write_text("{{ messages }}")
                status, own = server.ask("GET", "/tokenizer_info?model=math")
                for broken in ("[" * 100_000, "[]", "{" + " " * (5 << 20) + "}"):
                    config.write_text(broken)
                    self.assertEqual(server.ask("GET", "/tokenizer_info?model=math")[0], 500)
            finally:
                config.write_text(old)
                (self.archive / "chat_template.jinja").unlink()
            self.assertEqual((status, own), (200, {
                "model_max_length": 7, "tokenizer_class": "PreTrainedTokenizerFast",
                "chat_template": "{{ messages }}"}))
            self.assertEqual(server.ask("GET", "/tokenizer_info?model=none")[0], 404)
            self.assertEqual(server.ask("GET", "/tokenizer_info?x=1")[0], 400)

    def test_log_probabilities_of_a_prompt_agree_with_those_of_echo(self):
        with ServedProgram("--delta", f"math={self.archive}") as server:
            ask = {"model": "math", "prompt": PROMPT.format(12, 7), "max_tokens": 1, "temperature": 0}
            _, echo = server.ask("POST", "/v1/completions", ask | {"echo": True, "logprobs": 2})
            status, own = server.ask("POST", "/v1/completions", ask | {"prompt_logprobs": 2})
            self.assertEqual(status, 200, own)
            want = echo["choices"][0]["logprobs"]
            got = own["choices"][0]["prompt_logprobs"]
            self.assertIsNone(got[0])
            for i, place in enumerate(got[1:], 1):
                token = next(iter(place.values()))  # the prompt's own
                self.assertAlmostEqual(token["logprob"], want["token_logprobs"][i], places=5)
                self.assertEqual(token["decoded_token"], want["tokens"][i])
                by_rank = sorted(place.values(), key=lambda each: each["rank"])
                self.assertEqual([each["rank"] for each in by_rank][:2], [1, 2])
                self.assertEqual(by_rank, sorted(place.values(), key=lambda each: -each["logprob"]))

    def test_streams_give_the_same_text(self):
        with ServedProgram("--delta", f"math={self.archive}") as server:
            want = server.complete("math")
            _, stream = server.ask("POST", "/v1/completions", {
                "model": "math", "prompt": PROMPT.format(12, 7), "max_tokens": 24,
                "temperature": 0, "stream": True})
            events = re.findall(r"data: (.*)\n\n", stream)
            self.assertEqual(events[-1], "[DONE]")
            text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
            self.assertEqual(text, want)

    def test_schemas_and_tools_hold(self):
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}},
                  "required": ["ok"], "additionalProperties": False}
        chat = {"model": "math", "messages": [{"role": "user", "content": "2 + 3"}],
                "max_tokens": 400, "temperature": 1, "n": 4, "seed": 1}
        with ServedProgram("--delta", f"math={self.archive}") as server:
            status, answer = server.ask("POST", "/v1/chat/completions", chat | {
                "response_format": {"type": "json_schema",
                                    "json_schema": {"name": "s", "schema": schema}}})
            self.assertEqual(status, 200, answer)
            for choice in answer["choices"]:
                self.assertEqual(choice["finish_reason"], "stop")
                self.assertEqual(list(json.loads(choice["message"]["content"])), ["ok"])
            status, answer = server.ask("POST", "/v1/chat/completions", chat | {
                "tool_choice": "required", "parallel_tool_calls": False,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]})
            self.assertEqual(status, 200, answer)
            for choice in answer["choices"]:
                self.assertEqual(choice["finish_reason"], "tool_calls")
                [call] = choice["message"]["tool_calls"]
                self.assertEqual(call["function"]["name"], "f")
                self.assertEqual(list(json.loads(call["function"]["arguments"])), ["ok"])
            status, error = server.ask("POST", "/v1/completions", {
                "model": "math", "prompt": "x", "guided_json": {"$ref": "http://elsewhere"}})
            self.assertEqual(status, 400)
            self.assertIn("$ref", error["error"]["message"])

    def test_variants_come_and_go_at_run_time(self):
        with ServedProgram("--allow-root", self.scratch) as server:
            status, error = server.ask("POST", "/v1/completions", {"model": "m", "prompt": "x"})
            self.assertEqual((status, error["error"]["type"]), (404, "NotFoundError"))
            load = {"lora_name": "m", "lora_path": str(self.archive)}
            status, said = server.ask("POST", "/v1/load_lora_adapter", load)
            self.assertEqual((status, said), (200, "Success: LoRA adapter 'm' added successfully."))
            self.assertEqual(server.complete("m"), self.generated("--delta", self.archive))
            status, shown = server.ask("PATCH", "/v1/deltas/m", {"pinned": True})
            self.assertTrue(shown["pinned"])
            status, said = server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": "m"})
            self.assertEqual(status, 200)
            status, _ = server.ask("POST", "/v1/completions", {"model": "m", "prompt": "x"})
            self.assertEqual(status, 404)

    def test_faulty_archives_are_refused_and_nothing_else_suffers(self):
        broken = self.scratch / "broken"
        shutil.copytree(self.archive, broken)
        weights = broken / "delta.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5] ^= 4
        weights.write_bytes(data)
        with ServedProgram("--delta", f"math={self.archive}", "--allow-root", self.scratch) as server:
            want = server.complete("math")
            status, error = server.ask("POST", "/v1/deltas",
                                       {"name": "broken", "path": str(broken)})
            self.assertEqual(status, 400)
            self.assertIn("SHA-256", error["error"]["message"])
            status, _ = server.ask("POST", "/v1/deltas", {"name": "x", "path": "/etc"})
            self.assertEqual(status, 403)
            self.assertEqual(server.complete("math"), want)
            _, deltas = server.ask("GET", "/v1/deltas")
            self.assertEqual([d["name"] for d in deltas["data"]], ["math"])

    def test_a_model_directory_is_watched(self):
        models = self.scratch / "models"
        models.mkdir()
        shutil.copytree(self.archive, models / "first")
        with ServedProgram("--model-dir", models) as server:
            want = self.generated("--delta", self.archive)
            self.assertEqual(server.complete("first"), want)
            shutil.copytree(self.archive, models / "second")
            self.assertEqual(server.complete("second"), want)  # found on disk before the next look
            shutil.rmtree(models / "first")
            names = lambda: [m["id"] for m in server.ask("GET", "/v1/models")[1]["data"]]
            server.wait_for(lambda: "first" not in names())
            self.assertIn("second", names())

    def test_keys_are_asked_for_and_read_again(self):
        keys = self.scratch / "keys.json"

        def write(secret):
            keys.write_text(json.dumps({"keys": [
                {"name": "a", "sha256": hashlib.sha256(secret.encode()).hexdigest()}]}))
        write("one")
        with ServedProgram("--keys", keys) as server:
            self.assertEqual(server.ask("GET", "/v1/models")[0], 401)
            self.assertEqual(server.ask("GET", "/v1/models", key="one")[0], 200)
            self.assertEqual(server.ask("GET", "/debug/state", key="one")[0], 403)
            self.assertEqual(server.ask("GET", "/health")[0], 200)
            write("two")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for(lambda: server.ask("GET", "/v1/models", key="two")[0] == 200)
            self.assertEqual(server.ask("GET", "/v1/models", key="one")[0], 401)
            keys.write_text("{")
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            self.assertEqual(server.ask("GET", "/v1/models", key="two")[0], 200)

    def test_sigterm_finishes_what_was_accepted(self):
        with ServedProgram() as server:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer = pool.submit(server.ask, "POST", "/v1/completions", {
                    "prompt": "x", "max_tokens": 400, "ignore_eos": True})
                server.wait_for(lambda: server.ask("GET", "/debug/state")[1]["engine"]["running"] == 1)
                server.process.send_signal(signal.SIGTERM)
                status, body = answer.result()
            self.assertEqual(status, 200)
            self.assertEqual(body["usage"]["completion_tokens"], 400)
            self.assertEqual(server.process.wait(20), 0)

    def test_a_request_has_a_deadline_of_its_own(self):
        body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "timeout_s": 0.05}
        with ServedProgram() as server:
            status, said = server.ask("POST", "/v1/completions", body)
            self.assertEqual((status, said["error"]["type"]), (504, "TimeoutError"))
            status, said = server.ask("POST", "/v1/completions", body | {"stream": True})
            self.assertTrue(status == 504 or '"TimeoutError"' in said, said)  # before or after the first piece
            self.assertEqual(server.ask("POST", "/v1/completions", body | {"max_tokens": 1, "timeout_s": 60})[0], 200)

    def test_log_lines_are_json_and_have_prompts_only_if_asked(self):
        body = {"prompt": "SECRETWORD\n", "max_tokens": 1}
        for options in ([], ["--log-prompts"]):
            with ServedProgram("--log-json", *options) as server:
                server.ask("POST", "/v1/completions", body)
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(20)
                rest = server.log()
            request = next(json.loads(line) for line in rest.splitlines() if '"request"' in line)
            self.assertEqual((request["path"], request["status"], request["output_tokens"]),
                             ("/v1/completions", 200, 1))
            if options:
                self.assertEqual(json.loads(request["body"]), body)
            else:
                self.assertNotIn("SECRETWORD", rest)

    @unittest.skipIf(shutil.which("openssl") is None, "there is no openssl")
    def test_tls(self):
        key, cert = self.scratch / "key.pem", self.scratch / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key,
                        "-out", cert], check=True, capture_output=True)
        with ServedProgram("--tls-cert", cert, "--tls-key", key) as server:
            trust = ssl.create_default_context(cafile=str(cert))
            for _ in range(3):
                connection = http.client.HTTPSConnection("localhost", server.port, context=trust,
                                                         timeout=30)
                for stream in (False, True, False):
                    connection.request("POST", "/v1/completions", json.dumps(
                        {"prompt": "x", "max_tokens": 5, "stream": stream, "ignore_eos": True}))
                    response = connection.getresponse()
                    self.assertEqual(response.status, 200)
                    self.assertTrue(response.read())
                connection.close()
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(20), 0)
        self.fails("serve", "--base", BASE, "--tls-cert", cert, says=["key"])

    def test_usage_and_faults_of_the_command_line(self):
        self.fails("serve", status=2, says=["--base"])
        self.fails("serve", "--base", BASE, "--delta", "nothing", status=2, says=["NAME=DIR"])
        self.fails("serve", "--base", BASE, "--keys", self.scratch / "none", status=1,
                   says=["none"], quietly=True)


if __name__ == "__main__":
    unittest.main()
