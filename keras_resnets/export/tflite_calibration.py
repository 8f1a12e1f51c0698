"""Whether images can calibrate a quantised network: ranges taken from random numbers are how 8-bit networks lose their accuracy."""

import numpy as np

from keras_resnets.export.description import Preprocessing

FEWEST = 16
# Correlation of neighbouring pixels, median over the images. White noise has 0.01 (sixteen images of 32 x 32 pixels). Scanned
# digits have 0.7 at their own 8 x 8 pixels and 0.98 enlarged, photographs 0.9, also when dark or with as much noise as picture
# still 0.27, drawings of lines one pixel wide 0.3, photographs dithered to black and white 0.18.
LEAST_CORRELATION = 0.1
_SMALLEST_SIDE = 8  # below it, noise has correlations by chance
_MOST_PIXELS = 4_000_000  # looked at; of more images as many as that, evenly spaced


def check_calibration(images: np.ndarray, preprocessing: Preprocessing | None) -> None:
    """Raises ValueError unless `images` `(images, height, width, channels)` look like inputs of the real world.

    Refused are fewer than 16 different images, images that are mostly of one colour each, images whose neighbouring pixels
    have nothing to do with each other, and pixels that were not normalised where `preprocessing` says that they should be.
    """
    different = len({hash(image.tobytes()) for image in images})
    if different < FEWEST:
        raise ValueError(
            f"calibration must be {FEWEST} different real inputs at least, better a hundred or more, not {different}"
        )
    varied = images.reshape(len(images), -1)
    blank = float(np.mean(varied.max(axis=1) == varied.min(axis=1)))
    if blank > 0.5:
        raise ValueError(
            f"calibration must be real inputs: {blank:.0%} of the images given are of one value throughout"
        )
    _check_normalised(images, preprocessing)
    if images.ndim == 4 and min(images.shape[1:3]) >= _SMALLEST_SIDE:
        correlation = neighbour_correlation(images)
        if correlation < LEAST_CORRELATION:
            raise ValueError("calibration must be real inputs, not random numbers: neighbouring pixels of the images given have "
                             f"a correlation of {correlation:.2f}, real ones have {LEAST_CORRELATION} at least")  # fmt: skip


def neighbour_correlation(images: np.ndarray) -> float:
    """Correlation of pixels with their neighbours, median over images; of the two directions the stronger, without its sign."""
    step = max(1, round(images.size / _MOST_PIXELS))
    values = images[::step].astype("float32")
    values = values - values.mean(axis=(1, 2), keepdims=True)
    variance = np.square(values).sum(axis=(1, 2, 3))
    seen = variance > 0
    pairs = (values[:, 1:] * values[:, :-1], values[:, :, 1:] * values[:, :, :-1])
    size = values[0].size
    medians = [
        np.median(products[seen].sum(axis=(1, 2, 3)) / products[0].size / (variance[seen] / size)) for products in pairs
    ]
    return float(max(abs(median) for median in medians))


def _check_normalised(images: np.ndarray, preprocessing: Preprocessing | None) -> None:
    """Pixels from 0 to 255 where the network takes numbers around 0: an order of magnitude outside of what is possible."""
    if preprocessing is None:
        return
    ends = [
        abs(end - mean) / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True) for end in (0, 1)
    ]
    largest = float(np.abs(images).max())
    if largest > 10 * max(ends):
        raise ValueError(f"calibration must be inputs as the model takes them, from {-max(ends):.3g} to {max(ends):.3g}: values up "
                         f"to {largest:.4g} look like pixels that were not normalised, see kr.preprocess_input")  # fmt: skip
