#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks who includes whom: prints each #include that breaks the layers, exits with 1 if there is one.

Usage: check_layers.py [--root DIR] [FILE ...]      without files: all sources of the project
"""

import argparse
import pathlib
import re
import sys

# Folder of src/ -> folders it may include besides itself. Never upward, never sideways: model and
# delta do not know each other, nor do compress, eval and engine. Dense linear algebra is reached
# through the backend interface, so that a GPU can do it: linalg is for backend/cpu alone.
MAY_INCLUDE = {
    "core": [],
    "linalg": ["core"],
    "quant": ["core"],
    "text": ["core"],
    "grammar": ["core"],
    "io": ["core", "quant"],
    "image": ["io", "core"],
    "backend": ["core", "quant"],
    "backend/cpu": ["backend", "quant", "linalg", "core"],
    "backend/cuda": ["backend", "quant", "core"],
    "backend/null": ["backend", "quant", "core"],
    "delta": ["io", "quant", "backend", "core"],
    "model": ["image", "io", "backend", "core"],
    "compress": ["model", "delta", "image", "text", "io", "quant", "backend", "core"],
    "eval": ["model", "delta", "image", "text", "io", "quant", "backend", "core"],
    "export": ["delta", "image", "text", "io", "quant", "backend", "core"],
    "engine": ["model", "delta", "image", "grammar", "text", "io", "quant", "backend", "core"],
    "bench": ["model", "delta", "text", "io", "quant", "backend", "core"],
    "server": ["image", "text", "core"],
}
# Public headers (include/deltacome) that a folder implements or is built on; error.h is for all.
MAY_INCLUDE_PUBLIC = {
    "io": ["archive.h"],
    "compress": ["compress.h", "archive.h", "export.h"],
    "eval": ["eval.h", "archive.h"],
    "export": ["export.h", "archive.h"],
    "engine": ["model.h", "engine.h", "request.h"],
    "bench": ["bench.h"],
    "server": ["archive.h", "compress.h", "eval.h", "model.h", "engine.h", "request.h", "server.h"],
}
# External header -> the only folders that may include it.
RESTRICTED = [
    (re.compile(r"nlohmann/"), ["io", "text", "grammar", "server", "apps"], "JSON"),
    (re.compile(r"(cuda|cublas|cusolver|cub/|cooperative_groups|nv|thrust)"), ["backend/cuda"], "the CUDA SDK"),
    (re.compile(r"(cblas|lapacke|openblas)"), ["linalg", "backend/cpu"], "BLAS and LAPACK"),
    (re.compile(r"CLI/"), ["apps"], "the command line"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
# io/json.h hands out nlohmann's types: including it is including JSON.
JSON_HEADERS = re.compile(r"^io/(json|archive_json)\.h$")


def folder_of(path):
    """"io" for src/io/files.cc, "backend/cpu" for src/backend/cpu/x.cc, "apps" for apps/x.cc."""
    parts = path.parts
    if parts[0] != "src":
        return parts[0]
    inner = "/".join(parts[1:3])
    return inner if inner in MAY_INCLUDE else parts[1]


def is_test(path):
    return path.stem.endswith("_test")


def problem(path, quote, name):
    """Why this #include is not allowed, or None."""
    folder = folder_of(path)
    for pattern, allowed, what in RESTRICTED:
        if pattern.match(name) and folder not in allowed:
            return f"{what} only in {', '.join(allowed)}"
    if name.startswith("deltacome/"):
        header = name.removeprefix("deltacome/")
        if folder in MAY_INCLUDE and header != "error.h" and header not in MAY_INCLUDE_PUBLIC.get(folder, []):
            return f"{folder} does not implement this public header"
        return None
    if quote == "<":
        return None
    if folder == "include":
        return "public headers include std and deltacome/ only"
    if folder in ("apps", "examples"):
        return f"{folder} may use include/deltacome only" if "/" in name else None
    if folder not in MAY_INCLUDE:
        return None  # tests, fuzz, benchmarks span modules
    if name.startswith("tests/"):
        return None if is_test(path) else "only tests include tests/"
    if JSON_HEADERS.match(name) and folder not in ("io", "text", "server"):
        return "JSON only in io, text, server, apps"
    target = folder_of(pathlib.PurePosixPath("src", name)) if "/" in name else None
    if target is None:
        return "include by path from src/"
    if target not in MAY_INCLUDE:
        return f"{target} is not a folder of src/"
    if target != folder and target not in MAY_INCLUDE[folder]:
        return f"{folder} may include {', '.join(MAY_INCLUDE[folder]) or 'nothing'}, not {target}"
    return None


def violations(root, paths):
    for path in paths:
        for number, line in enumerate((root / path).read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            why = match and problem(path, *match.groups())
            if why:
                yield f"{path}:{number}: includes {match.group(2)}: {why}"


def sources(root):
    for top in ("include", "src", "apps", "examples"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield pathlib.PurePosixPath(path.relative_to(root).as_posix())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[1])
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    wanted = {pathlib.PurePosixPath(f) for f in args.files}
    found = list(violations(args.root, [p for p in sources(args.root) if not wanted or p in wanted]))
    print("\n".join(found) if found else "layers: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
