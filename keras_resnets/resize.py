"""From an image of any size to a network's: short side resized with anti-aliasing, centre cut out.

This is how published weights are evaluated (torchvision's and timm's `Resize`, `CenterCrop`, on Pillow's images). One rule of
sizes serves tensors, of every backend, and Pillow's images.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def short_side(input_size: int, crop: float) -> int:
    """To how many pixels the short side is brought before the centre crop: `input_size / crop`, rounded down.

    Raises:
        ValueError: `input_size` is below 1, or `crop` is not above 0 and at most 1.
    """
    if input_size < 1:
        raise ValueError(f"input_size must be at least 1, not {input_size}")
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, not {crop}")
    return int(input_size / crop)


def resized_side(side: Any, shorter: Any, shortest: int) -> Any:
    """How long `side` becomes when the `shorter` side becomes `shortest`, rounded down. Integers or integer tensors."""
    return shortest * side // shorter


def centre_offset(side: Any, size: int) -> Any:
    """Where the central `size` pixels of `side` begin; halves are rounded to even. Integers or integer tensors."""
    half = (side - size) // 2
    return half + (side - size) % 2 * (half % 2)


# How much a pixel counts by its distance from where it is wanted, in pixels of the smaller of the two images.
def _triangle(distance: Any, numpy: Any) -> Any:
    return numpy.maximum(1 - distance, 0)


def _cubic(distance: Any, numpy: Any) -> Any:
    """Keys' cubic convolution with a = -1/2, as in Pillow (PyTorch without anti-aliasing and OpenCV have -3/4)."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return numpy.where(distance < 1, near, numpy.where(distance < 2, far, 0 * distance))


KERNELS: dict[str, Callable[[Any, Any], Any]] = {"bilinear": _triangle, "bicubic": _cubic}


def resize_and_crop(images: Any, input_size: int, crop: float, interpolation: str, dtype: str, backend: Any) -> Any:
    """Tensors resized and cropped as Pillow does it, up to rounding.

    Columns, then rows, are products with matrices, which have no more than the crop needs, and which every backend, `tf.data`
    and exported graphs can compute for sizes that are known at run time only. (`keras.ops.image.resize` computes what
    is cut off, and does not round between the passes.)

    Args:
        images: `(…, height, width, channels)`, pixels from 0 to 255.
        input_size, crop, interpolation: as in a weights entry.
        dtype: "float32" or "float64": half precision has too few digits.
        backend: a module of Keras' operations.

    Returns:
        `(…, input_size, input_size, channels)` of `dtype`: whole numbers from 0 to 255, rounded as Pillow's after each pass.
    """
    height, width = backend.shape(images)[-3:-1]
    known = isinstance(height, int) and isinstance(width, int)
    shorter = min(height, width) if known else backend.numpy.minimum(height, width)
    shortest = short_side(input_size, crop)

    def shares(side: Any) -> Any:
        """By how much each of `side` pixels (columns) counts in each pixel of the output (rows)."""
        numpy, cast = backend.numpy, backend.cast
        resized = resized_side(side, shorter, shortest)
        step = cast(side, dtype) / cast(resized, dtype)
        wanted = numpy.arange(0, input_size, dtype=dtype) + cast(centre_offset(resized, input_size), dtype)
        pixels = numpy.arange(0, side, dtype=dtype) + 0.5
        distance = numpy.abs(pixels - numpy.expand_dims((wanted + 0.5) * step, 1)) / numpy.maximum(step, 1)
        weights = KERNELS[interpolation](distance, numpy)
        return weights / numpy.sum(weights, axis=1, keepdims=True)

    def whole(pixels: Any) -> Any:
        return backend.numpy.floor(backend.numpy.clip(pixels, 0, 255) + 0.5)

    narrow = whole(backend.numpy.einsum("ow,...hwc->...hoc", shares(width), backend.cast(images, dtype)))
    return whole(backend.numpy.einsum("oh,...hwc->...owc", shares(height), narrow))


def resize_pillow(image: "Image.Image", shortest: int, interpolation: str) -> "Image.Image":
    """Pillow's `image` with a short side of `shortest` pixels; the long side keeps the aspect ratio, rounded down."""
    from PIL import Image

    width, height = (resized_side(side, min(image.size), shortest) for side in image.size)
    return image.resize((width, height), Image.Resampling[interpolation.upper()])
