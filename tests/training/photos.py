"""Image files of every kind, made here; and what Pillow shows of them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((80, 60))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned_mark(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


JPEG = encoded(PHOTO, "jpeg", quality=90)
BROKEN_TABLE = JPEG[:200] + b"\xff\xc4" + JPEG[202:]  # a marker amid a quantisation or Huffman table

DECODABLE: dict[str, bytes] = {
    "plain.jpg": JPEG,
    "progressive.jpg": encoded(PHOTO, "jpeg", progressive=True),
    "grey.jpg": encoded(PHOTO.convert("L"), "jpeg"),
    "inks.jpg": encoded(PHOTO.convert("CMYK"), "jpeg"),  # as Adobe's programs: inverted
    "upright.jpg": encoded(PHOTO, "jpeg", exif=turned_mark(1)),
    "one.jpg": encoded(PHOTO.resize((1, 1)), "jpeg"),
    "flat.jpg": encoded(PHOTO.resize((300, 1)), "jpeg"),
    "plain.png": encoded(PHOTO, "png"),
    "grey_alpha.png": encoded(PHOTO.convert("LA"), "png"),
    "alpha.png": encoded(PHOTO.convert("RGBA"), "png"),
    "palette.png": encoded(PHOTO.convert("P"), "png"),
    "one_bit.png": encoded(PHOTO.convert("1"), "png"),
    "one.png": encoded(PHOTO.resize((1, 1)), "png"),
    "animated.gif": encoded(PHOTO, "gif", save_all=True, append_images=[PHOTO.rotate(180)]),
    "animated.webp": encoded(PHOTO, "webp", save_all=True, append_images=[PHOTO.rotate(180)]),
    "plain.bmp": encoded(PHOTO, "bmp"),
    "plain.tif": encoded(PHOTO, "tiff"),
    "named_wrongly.jpg": encoded(PHOTO, "png"),
}

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"no image, but some text", "it is no image"),
    "beginning.jpg": (b"\xff\xd8\xff", "it is no image"),
    "cut_off.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "table.jpg": (BROKEN_TABLE, "broken data stream"),
    "cut_off.png": (encoded(PHOTO, "png")[:400], "truncated"),
}


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def make_folder(root: Path, classes: Sequence[str], files: dict[str, bytes]) -> Path:
    """The same files in a folder for each class."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for file, content in files.items():
            (root / name / file).write_bytes(content)
    return root


def numbered_photos(count: int, first: int = 0, size: tuple[int, int] = (40, 30)) -> dict[str, bytes]:
    """Images whose pixels are their number."""
    return {
        f"{number}.png": encoded(Image.new("RGB", size, (number, number, number)), "png")
        for number in range(first, first + count)
    }
