#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/images: small pictures in every format that is read, with what Pillow makes of them.

Usage: make_image_goldens.py OUT_DIR      (Pillow and NumPy; the committed files are of Pillow 13.0.0)

NAME.{png,jpg,webp}  the picture
NAME.rgb             its pixels as convert("RGB") gives them, after "width height\\n"
NAME_<edge>.rgb      the picture resized to that shortest edge (bicubic) and cropped to the square in
                     its middle, as CLIPImageProcessor does both
"""

import pathlib
import sys

import numpy
from PIL import Image


def picture(width, height, seed):
    """Smooth gradients, hard edges and noise: what a resampling filter can get wrong."""
    y, x = numpy.mgrid[0:height, 0:width]
    pixels = numpy.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + y) % 64 * 4], axis=2)
    pixels[height // 4: height // 2, width // 3: width // 2] = (255, 0, 0)
    pixels[height // 2:, : width // 4] = (0, 0, 0)
    noise = numpy.random.RandomState(seed).randint(0, 256, (height, width, 3))
    pixels[:, 2 * width // 3:] = noise[:, 2 * width // 3:]
    return Image.fromarray(pixels.astype(numpy.uint8), "RGB")


def write_rgb(path, image):
    assert image.mode == "RGB"
    path.write_bytes(f"{image.width} {image.height}\n".encode() + image.tobytes())


def clip_square(image, edge):
    width, height = image.size
    shorter, longer = sorted(image.size)
    size = (edge, int(edge * longer / shorter)) if width <= height else (int(edge * longer / shorter), edge)
    resized = image.resize(size, Image.BICUBIC)
    left, top = (size[0] - edge) // 2, (size[1] - edge) // 2
    return resized.crop((left, top, left + edge, top + edge))


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    wide, tall, small = picture(97, 61, 1), picture(45, 83, 2), picture(19, 11, 3)
    alpha = wide.copy()
    alpha.putalpha(Image.fromarray(numpy.arange(97 * 61, dtype=numpy.int64).reshape(61, 97).astype(numpy.uint8)))
    files = {
        "wide.png": (wide, {}),
        "alpha.png": (alpha, {}),
        "grey.png": (small.convert("L"), {}),
        "bits.png": (small.convert("1"), {}),
        "palette.png": (small.quantize(16), {"transparency": 3}),
        "tall.jpg": (tall, {"quality": 90}),
        "progressive.jpg": (tall, {"quality": 75, "progressive": True, "subsampling": 0}),
        "grey.jpg": (tall.convert("L"), {"quality": 90}),
        "cmyk.jpg": (small.convert("CMYK"), {}),
        "lossy.webp": (small, {"quality": 90}),
        "lossless.webp": (wide, {"lossless": True}),
        "alpha.webp": (alpha.resize((31, 20)), {"lossless": True, "exact": True}),
    }
    for name, (image, options) in files.items():
        image.save(out / name, **options)
        if name != "cmyk.jpg":
            write_rgb(out / f"{name}.rgb", Image.open(out / name).convert("RGB"))
    small.save(out / "animation.webp", save_all=True, append_images=[wide.resize(small.size)])
    for name, image in (("wide", wide), ("tall", Image.open(out / "tall.jpg").convert("RGB"))):
        for edge in (7, 32, 100):  # down, a little down, up
            write_rgb(out / f"{name}_{edge}.rgb", clip_square(image, edge))


if __name__ == "__main__":
    main()
