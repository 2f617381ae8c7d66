#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the skipped tests of JUnit files by name, with the reason.

Usage: skipped_tests.py DIRECTORY_WITH_XML_FILES
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree


def reason_of(case):
    """The text of GTEST_SKIP() in the output, or what the runner says."""
    said = re.search(r": Skipped\n(.+)", case.findtext("system-out") or "")
    if said:
        return said.group(1).strip()
    skipped = case.find("skipped")
    return (skipped.get("message") if skipped is not None else None) or "no reason given"


def main():
    skipped = []
    total = 0
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):
            total += 1
            if case.find("skipped") is not None:
                skipped.append((case.get("name"), reason_of(case)))
    print(f"{total} tests, {len(skipped)} skipped")
    for name, reason in skipped:
        print(f"  skipped: {name}: {reason}")


if __name__ == "__main__":
    main()
