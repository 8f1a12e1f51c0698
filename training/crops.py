"""Several views of one image, over which a network's probabilities are averaged.

Ten crops are those of AlexNet and of the ResNet papers' comparisons; 144 those of Inception (Szegedy et al., 2015,
arXiv 1409.4842, section 7).
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from keras_resnets.registry import WeightsEntry
from keras_resnets.resize import centre_offset, resize_pillow, short_side

# Short sides of the 144 crops for a network of 224 pixels; for others in proportion.
INCEPTION_SHORT_SIDES = (256, 288, 320, 352)
INCEPTION_INPUT_SIZE = 224


def five_crops(image: np.ndarray, size: int) -> np.ndarray:
    """The corners and the centre: top left, top right, bottom left, bottom right, centre.

    Args:
        image: `(height, width, channels)`.
        size: side of the square crops in pixels.

    Returns:
        `(5, size, size, channels)`.

    Raises:
        ValueError: `image` is smaller than a crop.
    """
    height, width = image.shape[:2]
    if min(height, width) < size or size < 1:
        raise ValueError(f"size must be from 1 to the image's shorter side, {min(height, width)}, not {size}")
    bottom, right = height - size, width - size
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    centre = (centre_offset(height, size), centre_offset(width, size))
    return np.stack([image[top : top + size, left : left + size] for top, left in (*corners, centre)])


def with_mirrored(crops: np.ndarray) -> np.ndarray:
    """`crops` `(count, height, width, channels)` and, after them, each with left and right exchanged."""
    return np.concatenate([crops, crops[:, :, ::-1]])


def ten_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The `five_crops` of an image and their mirror images: `(10, size, size, channels)`; raises as they do."""
    return with_mirrored(five_crops(image, size))


def inception_144_crop(image: Image.Image, size: int, interpolation: str = "bicubic") -> np.ndarray:
    """The views of the Inception paper: 4 scales, 3 squares of each, 6 views of each square, and their mirror images.

    The short side becomes 256, 288, 320 and 352 pixels for a `size` of 224, others in proportion (rounded down). Of each of
    these the left, central and right square (top, central and bottom one of a portrait) as high as the image; of each square
    the `five_crops` and the whole, resized to `size`.

    Args:
        image: RGB, of any size.
        size: side of the views in pixels.
        interpolation: "bilinear" or "bicubic", anti-aliased.

    Returns:
        `(144, size, size, 3)`, uint8: the mirror images are the second half.
    """
    views = []
    for scale in INCEPTION_SHORT_SIDES:
        scaled = np.asarray(resize_pillow(image, scale * size // INCEPTION_INPUT_SIZE, interpolation))
        for square in _squares(scaled):
            whole = resize_pillow(Image.fromarray(square), size, interpolation)
            views += [five_crops(square, size), np.asarray(whole)[np.newaxis]]
    return with_mirrored(np.concatenate(views))


def _squares(image: np.ndarray) -> Iterator[np.ndarray]:
    """The squares at the beginning, in the centre and at the end of the long side."""
    height, width = image.shape[:2]
    side, long = min(height, width), max(height, width)
    for start in (0, centre_offset(long, side), long - side):
        yield image[:, start : start + side] if width > height else image[start : start + side]


def views(image: Image.Image, entry: WeightsEntry, crops: int) -> np.ndarray:
    """`crops` views, 1, 10 or 144, of an image for a network whose weights expect `entry`.

    The one is the centre, cut as by `keras_resnets.preprocessing.load_image`; ten are cut of the same resized image.

    Returns:
        `(crops, input_size, input_size, 3)`, uint8.

    Raises:
        ValueError: there is no such number of crops.
    """
    if crops not in (1, 10, 144):
        raise ValueError(f"crops must be 1, 10 or 144, not {crops}")
    if crops == 144:
        return inception_144_crop(image, entry.input_size, entry.interpolation)
    resized = np.asarray(resize_pillow(image, short_side(entry.input_size, entry.crop), entry.interpolation))
    return ten_crop(resized, entry.input_size) if crops == 10 else five_crops(resized, entry.input_size)[4:]
