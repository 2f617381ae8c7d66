# SPDX-License-Identifier: Apache-2.0
"""The server's page and the policy that it is sent with. tests/browser uses it in a browser."""

import base64
import hashlib
import http.client
import re
import unittest

from serve_test import ServedProgram
from support import CliTest


class PagePolicyTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with ServedProgram() as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/")
            response = connection.getresponse()
            cls.page = response.read().decode()
            cls.headers = response.headers
            connection.close()

    def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(self):
        policy = dict(part.strip().partition(" ")[::2] for part in
                      self.headers["Content-Security-Policy"].split(";"))
        self.assertEqual(policy["default-src"], "'none'")
        self.assertEqual(policy["connect-src"], "'self'")
        for tag, rule in (("style", "style-src"), ("script", "script-src")):
            [text] = re.findall(f"<{tag}>(.*?)</{tag}>", self.page, re.S)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            self.assertEqual(policy[rule], f"'sha256-{digest}'")
        self.assertEqual(self.headers["X-Content-Type-Options"], "nosniff")

    def test_the_page_needs_nothing_from_elsewhere(self):
        markup = re.sub(r"<(style|script)>.*?</\1>", "", self.page, flags=re.S)
        self.assertEqual(re.findall(r"<[^>]*\s(?:on\w+|style)\s*=", markup), [])
        addresses = set(re.findall(r"https?://[^\s'\"<>)]+", self.page))
        self.assertEqual(addresses - {"http://www.w3.org/2000/svg"}, set())  # a name, not an address


if __name__ == "__main__":
    unittest.main()
