"""Images for calibration and evaluation: the scanned digits, or a folder of one's own."""

from pathlib import Path

import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.preprocessing import expected_input, load_image, preprocess_input

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def calibration_images(source: str, network: Network, count: int) -> np.ndarray:
    """Real images as `network` takes them: training images of "digits", or the image files of a folder and its subfolders.

    Args:
        source: "digits" or a folder.
        network: whose input size and preprocessing to apply.
        count: at most how many images.

    Returns:
        `(images, height, width, 3)`, float32.

    Raises:
        ValueError: `source` is neither, or holds no images, or one that cannot be decoded.
    """
    if source == "digits":
        images, _ = digits("train")
        return preprocess_input(images[:count], network)
    paths = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"source must be 'digits' or a folder of {', '.join(SUFFIXES)} files, not {source!r}")
    entry = expected_input(network)
    return preprocess_input(np.stack([load_image(path, entry) for path in paths[:count]]), network)


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(count, 32, 32, 3)`, uint8, and labels of the "train" or "test" part of scikit-learn's digits."""
    from training.data import load_data
    from training.recipe import DataRecipe

    split = getattr(load_data(DataRecipe(source="digits")), part)
    return split.images, split.labels
