# SPDX-License-Identifier: Apache-2.0
"""Vision-language fine-tunes of a text base through the command line. The models are the test
bed's, beside the checkout (or where DELTACOME_SHARED points)."""

import base64
import functools
import http.server
import json
import os
import pathlib
import shutil
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from serve_test import ServedProgram  # noqa: E402
from support import BASE, ROOT, CliTest, quantize_int8, read_safetensors, write_safetensors  # noqa: E402

SHARED = pathlib.Path(os.environ.get("DELTACOME_SHARED", ROOT.parent / "shared"))
VISION = SHARED / "testbed/models/tiny-vision"
ROWS = SHARED / "testbed/eval/vision.jsonl"
CALIBRATION = SHARED / "testbed/calib/vision.jsonl"


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def new_layout(name):
    """The names of transformers since 4.52."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "model." + name


def authors_layout(name):
    """The names of LLaVA's authors."""
    if name.startswith("vision_tower."):
        return "model.vision_tower.vision_tower.vision_model." + name.removeprefix("vision_tower.")
    name = name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
    name = name.replace("multi_modal_projector.linear_2", "model.mm_projector.2")
    return name.removeprefix("language_model.")


class Vision(CliTest):
    @classmethod
    def setUpClass(cls):
        for path in (VISION, ROWS, CALIBRATION):
            if not path.exists():
                raise unittest.SkipTest(f"no {path}")
        super().setUpClass()
        cls.rows = [json.loads(line) for line in ROWS.read_text().splitlines()[:24]]
        cls.few = cls.scratch / "few.jsonl"
        cls.few.write_text("".join(json.dumps(row) + "\n" for row in cls.rows))
        cls.picture = cls.scratch / "picture.png"
        cls.picture.write_bytes(base64.b64decode(cls.rows[0]["image"].split(",")[1]))

    def archive(self, name="archive", *options, finetuned=VISION):
        out = self.scratch / name
        if not out.exists():
            self.compress(name, "--bits", "1.2", "--calib", CALIBRATION, *options, finetuned=finetuned)
        return out

    def test_the_archive_answers_as_the_fine_tune(self):
        info = self.json("inspect", self.archive())
        self.assertGreater(info["vision_bytes"], 0)
        self.assertEqual(info["all_in_bytes"],
                         sum(info[f"{part}_bytes"] for part in
                             ("projection", "embedding", "vision", "other", "header")))
        self.ok("verify", self.archive(), "--base", BASE)
        scores = self.json("eval", "--base", BASE, "--delta", self.archive(), "--reference", VISION,
                           "--data", self.few)
        self.assertGreater(scores["exact_match"], 0.9)
        self.assertLess(scores["kl"], 0.02)

    def test_eight_bits_of_the_tower_are_half_of_it(self):
        whole = self.json("inspect", self.archive("raw", "--vision-bits", "16"))
        coded = self.json("inspect", self.archive())
        self.assertLess(coded["vision_bytes"], 0.55 * whole["vision_bytes"])
        self.assertEqual(whole["projection_bytes"], coded["projection_bytes"])

    def test_a_quantized_model_sees_too(self):
        """Projections of the language model and of the tower in int8; the second run in the tower's own type."""
        quantized = quantize_int8(VISION, self.scratch / "int8")
        scores = self.json("eval", "--model", quantized, "--reference", VISION, "--data", self.few)
        self.assertGreater(scores["exact_match"], 0.9)
        self.assertGreater(scores["kl"], 0)
        self.assertLess(scores["kl"], 0.01)
        # As a base it has deltas of its own, made of what its codes stand for.
        out = self.compress("on-int8", "--distill", "0", base=quantized, finetuned=VISION, method="bitdelta")
        self.assertIn("int8", self.json("inspect", out)["base_quantization"])
        scores = self.json("eval", "--base", quantized, "--delta", out, "--reference", VISION, "--data", self.few)
        self.assertGreater(scores["exact_match"], 0.9)

    def test_generate_sees_the_picture(self):
        prompt, answer = self.rows[0]["prompt"], self.rows[0]["answer"]
        options = ("--max-tokens", 24, "--image", self.picture)
        for model in (("--model", VISION), ("--base", BASE, "--delta", self.archive())):
            text = self.json("generate", *model, "--prompt", prompt, *options)["text"]
            self.assertIn(answer.lower(), text.lower())
            question = prompt.removeprefix("USER: <image>\n").removesuffix("\nASSISTANT:")
            chat = self.json("generate", *model, "--chat", question, *options)
            self.assertEqual(chat["text"], text)
            self.assertGreater(chat["prompt_tokens"], 64)

    def test_a_served_variant_sees_the_picture_of_a_message(self):
        question = self.rows[0]["prompt"].removeprefix("USER: <image>\n").removesuffix("\nASSISTANT:")
        url = self.rows[0]["image"]
        self.assertTrue(url.startswith("data:image/"))
        body = {"model": "sees", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]}]}
        want = self.json("generate", "--base", BASE, "--delta", self.archive(), "--chat", question,
                         "--max-tokens", 24, "--image", self.picture)["text"]
        pictures = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(QuietFiles, directory=pathlib.Path(self.picture).parent))
        threading.Thread(target=pictures.serve_forever, daemon=True).start()
        self.addCleanup(pictures.server_close)
        self.addCleanup(pictures.shutdown)
        host = f"127.0.0.1:{pictures.server_port}"
        elsewhere = f"http://{host}/{pathlib.Path(self.picture).name}"
        with ServedProgram("--delta", f"sees={self.archive()}", "--image-host", host) as server:
            for source in (url, url, elsewhere):  # the second time the features are known
                body["messages"][0]["content"][0]["image_url"]["url"] = source
                status, answer = server.ask("POST", "/v1/chat/completions", body)
                self.assertEqual(status, 200, answer)
                self.assertEqual(answer["choices"][0]["message"]["content"], want)
            for source, said in ((f"http://localhost:{pictures.server_port}/x.png", "fetches no pictures from localhost"),
                                 (f"http://{host}/missing.png", "status 404")):
                body["messages"][0]["content"][0]["image_url"]["url"] = source
                status, answer = server.ask("POST", "/v1/chat/completions", body)
                self.assertEqual(status, 400, answer)
                self.assertIn(said, answer["error"]["message"])
                self.assertEqual(answer["error"]["param"], "messages[0].content[0].image_url.url")

    def test_merge_gives_the_fine_tune_in_a_layout_that_is_read_again(self):
        merged = self.scratch / "merged"
        self.ok("merge", "--base", BASE, "--delta", self.archive(), "--out", merged)
        names, _ = read_safetensors(merged / "model.safetensors")
        own, _ = read_safetensors(VISION / "model.safetensors")
        self.assertEqual(len(names), len(own))
        for name, (dtype, shape, _) in own.items():
            stored = name.replace("vision_tower.", "vision_tower.vision_model.")
            self.assertEqual(names[stored][:2], (dtype, shape), name)
        self.assertTrue((merged / "preprocessor_config.json").exists())
        ours = self.json("eval", "--model", merged, "--reference", VISION, "--data", self.few)
        packed = self.json("eval", "--base", BASE, "--delta", self.archive(), "--reference", VISION,
                           "--data", self.few)
        self.assertAlmostEqual(ours["kl"], packed["kl"], delta=0.01)
        self.assertEqual(ours["exact_match"], packed["exact_match"])

    def test_all_layouts_give_the_same_archive(self):
        want = (self.archive() / "delta.safetensors").read_bytes()
        for name, rename in (("new", new_layout), ("authors", authors_layout)):
            with self.subTest(layout=name):
                def change(tensors):
                    renamed = {rename(old): tensor for old, tensor in tensors.items()}
                    tensors.clear()
                    tensors.update(renamed)
                model = self.model(f"{name}-layout", change, of=VISION)
                out = self.archive(f"{name}-archive", finetuned=model)
                self.assertEqual((out / "delta.safetensors").read_bytes(), want)

    def test_a_base_with_the_same_tower_stores_none_of_it(self):
        def change(tensors):
            name = "multi_modal_projector.linear_2.bias"
            dtype, shape, data = tensors[name]
            tensors[name] = (dtype, shape, bytes(data[2:]) + bytes(data[:2]))
        tuned = self.model("tuned", change, of=VISION)
        out = self.compress("of-vision", "--bits", "1.2", "--calib", CALIBRATION, base=VISION,
                            finetuned=tuned)
        info = self.json("inspect", out)
        self.assertEqual([t["name"] for t in info["tensors"]], ["multi_modal_projector.linear_2.bias"])
        scores = self.json("eval", "--base", VISION, "--delta", out, "--reference", tuned,
                           "--data", self.few, "--no-generate")
        self.assertLess(scores["kl"], 1e-9)

    def test_what_does_not_fit_is_said(self):
        self.fails("eval", "--base", BASE, "--data", self.few, "--no-generate",
                   says=("takes no pictures",))
        self.fails("generate", "--model", VISION, "--prompt", "no image", "--image", self.picture,
                   says=("0 image tokens", "expected 64 for 1 picture"))
        self.fails("generate", "--base", BASE, "--prompt", "<image>", "--image", self.picture,
                   says=("takes no pictures",))
        self.fails("generate", "--model", VISION, "--prompt", "<image>", "--image", self.few,
                   says=("none of PNG, JPEG, WebP",))
        self.fails("generate", "--model", VISION, "--prompt", "<image>", "--image", "nowhere.png",
                   says=("nowhere.png",))
        other = self.scratch / "other-size"
        shutil.copytree(VISION, other)
        config = json.loads((other / "preprocessor_config.json").read_text())
        config["crop_size"] = 32
        (other / "preprocessor_config.json").write_text(json.dumps(config))
        self.fails("generate", "--model", other, "--prompt", "<image>", "--image", self.picture,
                   says=("32 x 32", "64 x 64"))


if __name__ == "__main__":
    unittest.main()
