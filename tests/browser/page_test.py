# SPDX-License-Identifier: Apache-2.0
"""The server's page in a real browser: Chromium, driven by the package playwright, unchanged answers from the
running program. Skipped where either is missing: pip install -r tests/browser/requirements.txt; apt install chromium
(DELTACOME_CHROMIUM: another program; DELTACOME_SCREENSHOTS: a directory for pictures of the page)."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, FINETUNED, CliTest, run  # noqa: E402

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None

CHROMIUM = os.environ.get("DELTACOME_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUESTION = "Tom has 12 apples. Tom buys 7 apples. How many apples does Tom have now?"


@unittest.skipIf(sync_playwright is None, "the package playwright is not installed")
@unittest.skipIf(CHROMIUM is None, "there is no chromium")
class PageTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.archive = cls.scratch / "math"
        data = pathlib.Path(BASE).parents[1] / "eval/math.jsonl"
        done = run("compress", "--base", BASE, "--finetuned", FINETUNED, "--out", cls.archive, "--method",
                   "bitdelta", "--distill", "0", "--held-out", data)
        assert done.returncode == 0, done.stderr
        cls.server = ServedProgram("--delta", f"math={cls.archive}", "--allow-root", cls.scratch)
        cls.addClassCleanup(cls.server.__exit__)
        playwright = sync_playwright().start()
        cls.addClassCleanup(playwright.stop)
        # No name can be resolved: there is no network but the server.
        cls.browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        cls.addClassCleanup(cls.browser.close)
        expect.set_options(timeout=30_000)

    def setUp(self):
        self.problems = []  # what the console and the page say is wrong, violations of the policy included
        self.expected = "^$"
        self.refusals = 0   # responses that are errors: the browser notes each on the console too
        self.requests = []

    def tearDown(self):
        self.assertEqual([p for p in self.problems if not re.search(self.expected, p)], [])

    def open(self, server=None, fragment="", **options):
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 960}} | options)
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(30_000)

        def heard(message):
            if message.text.startswith("Failed to load resource"):
                self.refusals += 1
            elif message.type in ("error", "warning"):
                self.problems.append(message.text)
        page.on("console", heard)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        self.response = page.goto(f"http://127.0.0.1:{(server or self.server).port}/{fragment}")
        return page

    def row(self, page, name):
        return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))

    def wait_ready(self, page, name="math"):
        expect(self.row(page, name)).to_contain_text("ready")
        expect(page.get_by_role("combobox", name="Model right")).to_have_value(name)

    def ask(self, page, text=QUESTION, tokens=40):
        if not page.get_by_label("Tokens at most").is_visible():
            page.get_by_text("Settings").click()
        page.get_by_label("Tokens at most").fill(str(tokens))
        page.get_by_label("Question", exact=True).fill(text)
        page.get_by_label("Question", exact=True).press("Enter")

    def answers(self, page, n=2):
        """The texts of the last answers of both sides, when they are whole."""
        expect(page.locator(".answer")).to_have_count(n)
        expect(page.locator(".answer.running")).to_have_count(0)
        return [answer.locator(".turn").text_content() for answer in page.locator(".answer").all()]

    def chat_text(self, model, text=QUESTION, tokens=40):
        status, answer = self.server.ask("POST", "/v1/chat/completions", {
            "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
            "temperature": 0})
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    def picture(self, page, name):
        if "DELTACOME_SCREENSHOTS" in os.environ:
            page.screenshot(path=pathlib.Path(os.environ["DELTACOME_SCREENSHOTS"]) / f"{name}.png", full_page=True)

    def test_loads_quietly_under_a_strict_policy_and_asks_nobody_else(self):
        page = self.open()
        self.wait_ready(page)
        expect(page.locator(".gauge")).to_have_count(6)
        policy = self.response.headers["content-security-policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertRegex(policy, r"script-src 'sha256-[\w+/=]{44}';")
        self.assertNotIn("unsafe", policy)
        origin = f"http://127.0.0.1:{self.server.port}/"
        self.assertEqual([url for url in self.requests if not url.startswith((origin, "data:"))], [])
        self.assertEqual(self.refusals, 0)
        # The policy holds: a script or style that somebody slips in does nothing but a complaint.
        self.expected = "Content Security Policy|TrustedScript"
        page.evaluate("() => { const a = document.createElement('a'); document.body.append(a);"
                      " a.setAttribute('style', 'position: fixed');"
                      " try { a.setAttribute('onclick', 'window.ran = 1'); } catch { } a.click(); }")
        self.assertIsNone(page.evaluate("() => window.ran ?? null"))
        self.assertEqual(page.evaluate("() => getComputedStyle(document.body.lastChild).position"), "static")
        self.assertTrue(any("Content Security Policy" in p for p in self.problems), self.problems)

    def test_shows_what_an_archive_is_and_how_near_it_comes(self):
        page = self.open()
        self.wait_ready(page)
        _, shown = self.server.ask("GET", "/v1/deltas/math")
        row = self.row(page, "math")
        expect(row.locator("[data-label=Method]")).to_contain_text("bitdelta")
        expect(row.locator("[data-label='Bits per weight']")).to_have_text(f"{shown['about']['bits_per_weight']:.3f}")
        expect(row.locator("[data-label='Top-1 agreement']")).to_have_text(f"{100 * shown['about']['top1']:.1f} %")
        self.assertAlmostEqual(float(row.locator("[data-label='KL to fine-tune']").text_content()), shown["about"]["kl"], delta=0.05)

    def test_two_streams_side_by_side_give_the_servers_texts(self):
        page = self.open()
        self.wait_ready(page)
        self.ask(page)
        self.assertEqual(self.answers(page), [self.chat_text("tiny-base"), self.chat_text("math")])
        expect(page.locator(".answer .hint").first).to_contain_text("40 tokens in ")
        expect(page.get_by_role("log").first).to_have_attribute("aria-busy", "false")
        page.get_by_label("right only").check()
        self.ask(page, "What is 3 + 4?", 8)
        self.assertEqual(self.answers(page, 3)[2], self.chat_text("math", "What is 3 + 4?", 8))
        expect(page.locator(".gauge").filter(has_text="First token p50").locator("dd")).to_contain_text("s")
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 960})
            self.assertLessEqual(page.evaluate("() => document.documentElement.scrollWidth"), width)
            self.picture(page, f"{scheme}-{width}")

    def test_earlier_turns_and_a_system_message_are_sent_along_if_asked_to(self):
        page = self.open()
        self.wait_ready(page)
        page.get_by_text("Settings").click()
        page.get_by_label("System message").fill("Be brief.")
        page.get_by_label("Earlier turns are sent along").check()
        page.get_by_label("left only").check()
        self.ask(page, "One", 4)
        [first] = self.answers(page, 1)
        with page.expect_request("**/v1/chat/completions") as sent:
            self.ask(page, "Two", 4)
        self.assertEqual(sent.value.post_data_json["messages"], [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"},
            {"role": "assistant", "content": first}, {"role": "user", "content": "Two"}])
        self.answers(page, 2)

    def test_is_used_by_keyboard_alone(self):
        page = self.open()
        self.wait_ready(page)
        expect(page.get_by_label("Question", exact=True)).to_be_focused()
        page.locator(".skip").focus()
        seen = []
        for _ in range(40):
            page.keyboard.press("Tab")
            name, outline = page.evaluate(
                "() => { const e = document.activeElement; return [(e.labels?.[0]?.textContent || "
                "e.getAttribute('aria-label') || e.textContent || e.id).trim(), getComputedStyle(e).outlineStyle]; }")
            self.assertNotEqual(outline, "none", name)
            seen.append(name)
            if name == "Question":
                break
        order = [next((i for i, name in enumerate(seen) if name.startswith(what)), -1) for what in
                 ("API key", "New conversation", "Model left", "Conversation left", "Model right", "Question")]
        self.assertNotIn(-1, order, seen)
        self.assertEqual(order, sorted(order), seen)
        page.keyboard.type(QUESTION)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Enter")
        self.assertEqual(len(self.answers(page)), 2)
        expect(page.get_by_label("Question", exact=True)).to_be_focused()
        for _ in range(60):  # to the button that unloads
            if page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Pin math":
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(self.row(page, "math")).to_contain_text("ready, pinned")
        page.keyboard.press("Space")
        expect(self.row(page, "math")).not_to_contain_text("pinned")

    def test_escape_stops_both_answers_and_the_server_cancels_them(self):
        page = self.open()
        self.wait_ready(page)
        page.get_by_role("combobox", name="Model right").select_option("tiny-base")  # never ends by itself
        self.ask(page, tokens=1900)
        expect(page.locator(".answer .turn").first).not_to_be_empty()
        expect(page.locator(".answer .turn").last).not_to_be_empty()
        page.keyboard.press("Escape")
        self.answers(page)
        for note in page.locator(".answer .hint").all():
            expect(note).to_have_text("stopped")
        self.server.wait_for(lambda: self.server.ask("GET", "/debug/state")[1]["engine"]["running"] == 0)
        self.assertGreaterEqual(self.server.ask("GET", "/debug/state")[1]["engine"]["cancelled"], 2)

    def test_loads_and_unloads_with_progress(self):
        page = self.open()
        self.wait_ready(page)
        held = []
        page.route("**/v1/deltas", lambda route: held.append(route) if route.request.method == "POST" else route.fallback())
        page.get_by_label("Name", exact=True).fill("second")
        page.get_by_label("Directory on the server").fill(str(self.archive))
        page.get_by_label("Directory on the server").press("Enter")
        row = self.row(page, "second")
        expect(row.get_by_role("progressbar")).to_be_visible()
        expect(page.locator("#said")).to_have_text("Load second …")
        held.pop().continue_()
        expect(row).to_contain_text("ready")
        expect(row.get_by_role("progressbar")).to_be_hidden()
        expect(page.locator("#said")).to_have_text("Load second: done.")
        self.assertIn("second", page.get_by_role("combobox", name="Model left").locator("option").all_text_contents())

        def half_loaded(route):  # as the server says it of large archives
            models = route.fetch().json()
            models["data"][-1]["delta"] |= {"state": "loading",
                                            "progress": {"loaded_bytes": 3 << 30, "total_bytes": 4 << 30}}
            route.fulfill(json=models)
        page.route("**/v1/models", half_loaded)
        expect(row).to_contain_text("loading 75 %")
        expect(row.get_by_role("progressbar")).to_have_attribute("value", "0.75")
        page.unroute("**/v1/models")
        expect(row).to_contain_text("ready")

        row.get_by_role("button", name="Unload second").click()
        expect(row).to_have_count(0)
        self.assertEqual(self.server.ask("GET", "/v1/deltas/second")[0], 404)
        expect(page.get_by_label("Directory on the server")).to_have_value(str(self.archive))

    def test_faulty_archives_are_refused_in_the_servers_words(self):
        broken = self.scratch / "broken"
        shutil.copytree(self.archive, broken, dirs_exist_ok=True)
        data = bytearray((broken / "delta.safetensors").read_bytes())
        data[-5] ^= 4
        (broken / "delta.safetensors").write_bytes(data)
        page = self.open()
        self.wait_ready(page)
        for name, path, word in (("broken", broken, "SHA-256"), ("outside", "/etc", "/etc"), ("", "", "name")):
            page.get_by_label("Name", exact=True).fill(name)
            page.get_by_label("Directory on the server").fill(str(path))
            with page.expect_response(lambda r: r.request.method == "POST") as response:
                page.get_by_role("button", name="Load", exact=True).click()
            self.assertGreaterEqual(response.value.status, 400)
            said = response.value.json()["error"]["message"]
            self.assertIn(word, said)
            expect(page.locator("#fault")).to_have_text(said)
            expect(page.get_by_role("rowheader")).to_have_text(["tiny-base", "math"])
        self.ask(page, tokens=8)
        self.assertEqual(self.answers(page)[1], self.chat_text("math", tokens=8))

    def test_faults_of_answers_are_shown_and_text_is_never_markup(self):
        page = self.open()
        self.wait_ready(page)
        page.get_by_label("right only").check()
        page.get_by_text("Settings").click()
        page.get_by_label("Temperature").fill("hot")
        self.ask(page)
        _, error = self.server.ask("POST", "/v1/chat/completions", {
            "model": "math", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"})
        expect(page.locator(".answer .fault")).to_have_text(error["error"]["message"])
        page.get_by_label("Temperature").fill("0")
        pieces = [{"choices": [{"index": 0, "delta": {"content": "<img src=x>\n<b>ü"}}]},
                  {"error": {"message": "the device has failed", "code": 500}}]
        page.route("**/v1/chat/completions", lambda route: route.fulfill(
            content_type="text/event-stream", body="".join(f"data: {json.dumps(p)}\n\n" for p in pieces)))
        page.get_by_role("button", name="New conversation").click()
        self.ask(page)
        expect(page.locator(".answer .fault")).to_have_text("the device has failed")
        expect(page.locator(".answer .turn")).to_have_text("<img src=x>\n<b>ü")
        self.assertEqual(page.locator(".answer img").count(), 0)

    def test_models_without_a_template_complete_the_text_itself(self):
        plain = self.scratch / "plain"
        shutil.copytree(BASE, plain)
        config = json.loads((plain / "tokenizer_config.json").read_text())
        del config["chat_template"]
        (plain / "tokenizer_config.json").write_text(json.dumps(config))
        with ServedProgram(base=plain) as server:
            page = self.open(server, "#question=One%0Atwo")
            expect(page.locator(".mode").first).to_contain_text("Completion")
            expect(page.get_by_label("Question", exact=True)).to_have_value("One\ntwo")
            page.get_by_label("left only").check()
            self.ask(page, "### Instruction:\nSay it.\n\n### Response:\n", 24)
            [text] = self.answers(page, 1)
            _, answer = server.ask("POST", "/v1/completions", {
                "prompt": "### Instruction:\nSay it.\n\n### Response:\n", "max_tokens": 24, "temperature": 0})
            self.assertEqual(text, answer["choices"][0]["text"])

    def test_keys_are_asked_for_and_kept_in_memory_only(self):
        keys = self.scratch / "keys.json"
        keys.write_text(json.dumps({"keys": [
            {"name": name, "admin": name == "ops", "sha256": hashlib.sha256(name.encode()).hexdigest()}
            for name in ("ops", "team")]}))
        with ServedProgram("--keys", keys, "--delta", f"math={self.archive}") as server:
            page = self.open(server)

            def give(key):
                if not page.get_by_label("Key", exact=True).is_visible():
                    page.locator("summary", has_text="API key").click()
                page.get_by_label("Key", exact=True).fill(key)
                page.get_by_label("Key", exact=True).press("Enter")
            expect(page.get_by_label("Key", exact=True)).to_be_focused()
            give("wrong")
            expect(page.locator("#state")).to_have_text("the API key is not known")
            give("team")
            self.wait_ready(page)
            expect(page.locator("#no-admin")).to_contain_text("this needs an administrator's key")
            expect(page.get_by_role("button", name="Unload math")).to_be_hidden()
            self.ask(page, tokens=4)
            self.answers(page)
            give("ops")
            expect(page.get_by_role("button", name="Unload math")).to_be_visible()
            expect(page.get_by_role("button", name="Load", exact=True)).to_be_visible()
            self.assertEqual(page.evaluate("() => localStorage.length + sessionStorage.length + document.cookie.length"), 0)
            self.assertNotIn("ops", page.url)

    def test_says_when_the_server_is_gone(self):
        with ServedProgram() as server:
            page = self.open(server)
            expect(page.locator("#state")).to_have_text("serving tiny-base")
        expect(page.locator("#state")).to_have_text("the server does not answer")


if __name__ == "__main__":
    unittest.main()
