"""Windows of training crops: their distribution against the formulas, and what happens at the edges."""

import math

import numpy as np
import pytest
import tensorflow as tf

from training import crop_windows

DRAWS = 3000


def windows(function, height: int, width: int, *arguments: object, draws: int = DRAWS) -> np.ndarray:  # type: ignore[no-untyped-def]
    """`(draws, 4)`: of as many seeds."""

    def one(number: tf.Tensor) -> tf.Tensor:
        return function(tf.constant(height), tf.constant(width), *arguments, tf.stack([7, number]))

    return tf.function(lambda: tf.map_fn(one, tf.range(draws)))().numpy()


def check_inside(found: np.ndarray, height: int, width: int) -> None:
    top, left, tall, wide = found.T
    assert (found[:, :2] >= 0).all() and (found[:, 2:] >= 1).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()


def torchvision_area(height: int, width: int, area: tuple, aspect: tuple, random: np.random.Generator) -> list[int]:
    """`RandomResizedCrop.get_params` of torchvision, written down from its documentation of the paper's procedure."""
    for _ in range(10):
        target = height * width * random.uniform(*area)
        ratio = math.exp(random.uniform(math.log(aspect[0]), math.log(aspect[1])))
        wide, tall = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return [random.integers(0, height - tall + 1), random.integers(0, width - wide + 1), tall, wide]
    if width / height < aspect[0]:
        wide, tall = width, round(width / aspect[0])
    elif width / height > aspect[1]:
        wide, tall = round(height * aspect[1]), height
    else:
        wide, tall = width, height
    return [(height - tall) // 2, (width - wide) // 2, tall, wide]


@pytest.mark.parametrize(
    "height, width, area", [(375, 500, (0.08, 1.0)), (64, 64, (0.2, 0.6)), (30, 90, (0.5, 1.0)), (200, 20, (0.08, 1.0))]
)
def test_random_area_is_distributed_as_torchvision_s(height: int, width: int, area: tuple[float, float]) -> None:
    aspect = (3 / 4, 4 / 3)
    found = windows(crop_windows.random_area, height, width, area, aspect)
    check_inside(found, height, width)
    random = np.random.default_rng(0)
    expected = np.array([torchvision_area(height, width, area, aspect, random) for _ in range(DRAWS)])
    for place in range(4):
        spread = expected[:, place].std() + 1e-9
        for quantile in (0.1, 0.5, 0.9):
            ours, theirs = (np.quantile(values[:, place], quantile) for values in (found, expected))
            assert abs(ours - theirs) <= 0.12 * spread + 1, (place, quantile, ours, theirs)
    ours, theirs = ((values[:, 2] * values[:, 3] / (height * width)).mean() for values in (found, expected))
    assert ours == pytest.approx(theirs, abs=0.015)


def test_random_area_keeps_its_ranges() -> None:
    found = windows(crop_windows.random_area, 375, 500, (0.08, 1.0), (3 / 4, 4 / 3))
    _, _, tall, wide = found.T
    share, ratio = tall * wide / (375 * 500), wide / tall
    assert 0.079 < share.min() < 0.1 and 0.95 < share.max() <= 1
    assert 0.74 < ratio.min() < 0.77 and 1.31 < ratio.max() < 1.35


@pytest.mark.parametrize(
    "height, width, expected",
    [(10, 1000, [0, 493, 10, 13]), (1000, 12, [492, 0, 16, 12]), (100, 100, [0, 0, 100, 100]), (1, 1, [0, 0, 1, 1])],
)
def test_random_area_that_never_fits_is_the_centre(height: int, width: int, expected: list[int]) -> None:
    """By hand: ten tries for three times the area or more all fail."""
    found = crop_windows.random_area(
        tf.constant(height), tf.constant(width), (3.0, 4.0), (3 / 4, 4 / 3), tf.constant([0, 0])
    )
    assert found.numpy().tolist() == expected


def test_random_scale() -> None:
    """A square of 224 of a short side of 256 to 480, in pixels of an image of 300 x 400."""
    found = windows(crop_windows.random_scale, 300, 400, 224, (256, 480))
    check_inside(found, 300, 400)
    top, left, tall, wide = found.T
    assert (tall == wide).all()
    assert tall.min() == round(224 * 300 / 480) and tall.max() == round(224 * 300 / 256)
    expected = np.rint(224 * 300 / np.random.default_rng(0).integers(256, 481, 20000))
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(tall, quantile) == pytest.approx(np.quantile(expected, quantile), abs=3)
    assert (top / (300 - tall)).mean() == pytest.approx(0.5, abs=0.02) == (left / (400 - wide)).mean()
    assert (top == 0).any() and (top + tall == 300).any() and (left == 0).any() and (left + wide == 400).any()


@pytest.mark.parametrize("height, width", [(300, 400), (400, 300), (300, 300)])
def test_shifted_centre(height: int, width: int) -> None:
    """Of FixRes: the side of the test crop, centred along the shorter side, anywhere along the longer."""
    found = windows(crop_windows.shifted_centre, height, width, 224, 0.875)
    check_inside(found, height, width)
    top, left, tall, wide = found.T
    assert (tall == 262).all() and (wide == 262).all()  # 224 / 256 of 300
    centred, free, room = (top, left, width - 262) if width >= height else (left, top, height - 262)
    assert (centred == 19).all()
    assert free.min() == 0 and free.max() == room and np.ptp(np.bincount(free)[1:-1]) < 5 * math.sqrt(DRAWS / room)


def test_smallest_images() -> None:
    for function, arguments in [
        (crop_windows.random_area, ((0.08, 1.0), (3 / 4, 4 / 3))),
        (crop_windows.random_scale, (224, (256, 480))),
        (crop_windows.shifted_centre, (224, 0.875)),
    ]:
        assert windows(function, 1, 1, *arguments, draws=3).tolist() == [[0, 0, 1, 1]] * 3
        check_inside(windows(function, 1, 50, *arguments, draws=50), 1, 50)


@pytest.mark.parametrize("fill", [0.0, 100.0])
def test_pad_and_crop(fill: float) -> None:
    """Every shift of up to 2 pixels, equally often; beyond the image the filling."""
    image = np.arange(1, 76, dtype=np.uint8).reshape(5, 5, 3)
    wide = np.pad(image.astype(np.float32), [(2, 2), (2, 2), (0, 0)], constant_values=fill)
    crops = {wide[top : top + 5, left : left + 5].tobytes(): (top, left) for top in range(5) for left in range(5)}
    counts = np.zeros((5, 5), int)

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32)])
    def moved(number: tf.Tensor) -> tf.Tensor:
        return crop_windows.pad_and_crop(tf.constant(image), 2, tf.fill((3,), fill), tf.stack([3, number]))

    for number in range(1000):
        counts[crops[moved(tf.constant(number)).numpy().tobytes()]] += 1
    assert counts.min() > 15 and counts.max() < 75  # 40 each
