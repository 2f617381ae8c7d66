#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two plots of `deltacome bench decode --mixes ... --json`: time of a step, and memory, by the number of variants.

    benchmarks/plot_variants.py --time TIME.svg --memory MEMORY.svg [--budget-gb 80] NAME=DELTAS.json ... [WHOLE.json]

Each NAME=FILE is a line: one token of each of N variants in one step. WHOLE.json has steps of whole models (--whole-models);
beyond those that were measured the line is broken: N times the step of one. Memory is weights alone: base + N deltas, or N models.
"""
import argparse
import json
import math
import re

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 150, 36, 44
COLOURS = ("#1f6feb", "#d1495b", "#2a9d5c", "#8757d6")
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def steps_of(result):
    """{variants: ms} of the steps with one sequence of each variant, and {models: ms} of those of whole models."""
    variants, models = {}, {}
    for entry in result["entries"]:
        if found := re.fullmatch(r"(\d+) variants?, 1 sequence(?: each)?", entry["name"]):
            variants[int(found[1])] = min(entry["ms"], variants.get(int(found[1]), math.inf))
        elif found := re.fullmatch(r"(\d+) whole models?, 1 sequence each", entry["name"]):
            models[int(found[1])] = entry["ms"]
        elif entry["name"] == "base, 1 sequence":
            models[1] = entry["ms"]
    return variants, models


class Plot:
    """Both axes logarithmic: doublings on x, 1-2-5 on y."""

    def __init__(self, title, unit, low, high):
        self.low, self.high = math.log(low), math.log(high)
        self.parts = [f'<text x="{LEFT}" y="20" font-size="14" font-weight="600">{title}</text>']
        for n in COUNTS:
            self.parts.append(f'<text x="{self.x(n):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{n}</text>')
        self.parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">variants</text>')
        for power in range(-1, 5):
            for digit in (1, 2, 5):
                if not low <= (value := digit * 10 ** power) <= high:
                    continue
                y = self.y(value)
                self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/>'
                                  f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g} {unit}</text>')
        self.labels = []

    def x(self, n):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(n) / math.log2(COUNTS[-1])

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log(value) - self.low) / (self.high - self.low)

    def line(self, points, colour, label="", broken=False):
        path = " ".join(f"{self.x(n):.1f},{self.y(v):.1f}" for n, v in points)
        dash = ' stroke-dasharray="5 4"' if broken else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if not broken:
            self.parts += [f'<circle cx="{self.x(n):.1f}" cy="{self.y(v):.1f}" r="3" fill="{colour}"/>' for n, v in points]
        if label:
            self.labels.append((self.y(points[-1][1]), colour, label))

    def mark(self, value, label):
        y = self.y(value)
        self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#57606a" stroke-dasharray="2 3"/>'
                          f'<text x="{LEFT + 6}" y="{y - 5:.1f}" fill="#57606a">{label}</text>')

    def write(self, path):
        above = -math.inf
        for y, colour, label in sorted(self.labels):  # labels one below the other
            above = max(y, above + 15)
            self.parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{above + 4:.1f}" fill="{colour}">{label}</text>')
        with open(path, "w") as file:
            file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
                       'font-family="system-ui, sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
                       + "\n".join(self.parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", required=True)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--budget-gb", type=float, default=80)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    deltas, models, whole_bytes = {}, {}, 0
    for argument in args.files:
        name, _, path = argument.rpartition("=")
        result = json.load(open(path))
        variants, found = steps_of(result)
        models |= {n: ms for n, ms in found.items() if n not in models}
        whole_bytes = result["weight_bytes"]
        if name:
            deltas[name] = (variants, result["delta_resident_bytes"])
    one = models[1]
    plot = Plot("Time of a step, one token of each variant", "ms", 2, 500)
    for colour, (name, (steps, _)) in zip(COLOURS, deltas.items()):
        plot.line(sorted(steps.items()), colour, f"base + deltas, {name}")
    measured = max(models)
    plot.line([(n, models[n]) for n in COUNTS if n in models], COLOURS[-1])
    plot.line([(n, one * n) for n in COUNTS if n >= measured], COLOURS[-1], broken=True)
    plot.labels.append((plot.y(one * COUNTS[-1]), COLOURS[-1], "whole models"))
    plot.write(args.time)
    plot = Plot("Memory of weights", "GB", 10, 1000)
    for colour, (name, (_, size)) in zip(COLOURS, deltas.items()):
        plot.line([(n, (whole_bytes + n * size) / 1e9) for n in COUNTS], colour, f"base + deltas, {name}")
    plot.line([(n, n * whole_bytes / 1e9) for n in COUNTS], COLOURS[-1], "whole models")
    plot.mark(args.budget_gb, f"{args.budget_gb:g} GB")
    plot.write(args.memory)


if __name__ == "__main__":
    main()
