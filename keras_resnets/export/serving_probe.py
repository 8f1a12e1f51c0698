"""What the classifying signature of a SavedModel is compared on: photographs as files, and one that is none."""

import io
import math

import keras
import numpy as np

from keras_resnets.export.base import Probe, named_outputs
from keras_resnets.export.photos import encoded
from keras_resnets.export.serving import Classifier
from keras_resnets.preprocessing import to_rgb

# Classes whose probabilities are closer than that, relatively, may change places by rounding.
_TIE = 1e-3


def classification_probe(classifier: Classifier, model: keras.Model) -> Probe:
    """Files and what `model` says to them, decoded by Pillow; the last one is text, and to be flagged.

    Files whose most probable classes are tied are left out. If all are, classes and labels are not compared.
    """
    from keras_resnets.export.serving_images import NO_IMAGE, OK

    contents = np.array(photographs(classifier.max_pixels), object)
    probabilities = np.concatenate([_probabilities(classifier, model, content) for content in contents])
    clear = _without_ties(probabilities, classifier.top_k)
    if clear.any():
        contents, probabilities = contents[clear], probabilities[clear]
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, : classifier.top_k].astype("int32")
    best = np.take_along_axis(probabilities, classes, 1)
    labels = np.array([name.encode() for name in classifier.labels], object)[classes]
    expected = {
        "probabilities": _with_row(best, 0),
        "status": np.array([OK.encode()] * len(contents) + [NO_IMAGE.encode()], object),
    }
    if clear.any():
        expected |= {"classes": _with_row(classes, -1), "labels": _with_row(labels, b"")}
    return Probe("serving_default", {"image_bytes": np.array([*contents, b"text"], object)}, expected, batch=3)


def _with_row(rows: np.ndarray, value: object) -> np.ndarray:
    """`rows` and one more of nothing but `value`."""
    return np.concatenate([rows, np.full((1, rows.shape[1]), value, rows.dtype)])


def photographs(max_pixels: int) -> list[bytes]:
    """The photographs as they are, and one of them cut, as PNG; of larger ones than allowed a corner, as PNG."""
    import tensorflow as tf

    files = []
    for content in encoded():
        pixels = tf.io.decode_jpeg(content, channels=3)
        side = math.isqrt(max_pixels)
        fits = pixels.shape[0] * pixels.shape[1] <= max_pixels
        files.append(content if fits else tf.io.encode_png(pixels[:side, :side]).numpy())
    return [*files, tf.io.encode_png(tf.io.decode_png(files[0], 3)[1:, :-1]).numpy()]


def _probabilities(classifier: Classifier, model: keras.Model, content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(to_rgb(image))
    # One image at a time, as the signature does it: pixels that lie between two whole numbers are rounded alike.
    inputs = classifier.transform(pixels)[np.newaxis]
    return keras.ops.convert_to_numpy(classifier.probabilities(named_outputs(model, inputs)))


def _without_ties(probabilities: np.ndarray, top_k: int) -> np.ndarray:
    ranked = -np.sort(-probabilities, axis=1)[:, : top_k + 1]
    return (ranked[:, :-1] - ranked[:, 1:] > _TIE * ranked[:, :-1]).all(axis=1)
