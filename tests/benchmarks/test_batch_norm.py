"""The suite on batch normalisation: all contenders compute the same, and its page."""

import numpy as np
import pytest

from benchmarks import batch_norm
from benchmarks.batch_norm import BATCH, CASES, EPSILON, LAYERS, OURS, STOCK
from benchmarks.harness import Comparison, Plan, environment
from benchmarks.options import CHANNELS_LAST, CONTIGUOUS
from benchmarks.table import write_page

tf = pytest.importorskip("tensorflow", reason="the suite times TensorFlow")
pytest.importorskip("matplotlib", reason="draws a picture")

SHAPE = (BATCH, 5, 5, 6)


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(1, 3, SHAPE), rng.normal(0, 1, SHAPE)
    return x.astype("float32"), upstream.astype("float32")


def expected(relu: bool) -> np.ndarray:
    """Normalised again and again, with scale one and offset zero."""
    y = images()[0].astype("float64")
    for _ in range(LAYERS):
        y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + EPSILON)
        y = np.maximum(y, 0) if relu else y
    return y


@pytest.mark.parametrize("relu", [False, True])
def test_ours_and_stock_compute_the_same(relu: bool) -> None:
    x, upstream = map(tf.constant, images())
    outcomes = []
    for stock in (False, True):
        layers = batch_norm.make_layers(stock)
        y, gradients = batch_norm.keras_call(layers, relu, x, upstream)()
        np.testing.assert_allclose(y, expected(relu), atol=1e-4)
        assert len(gradients) == 1 + 2 * LAYERS
        assert all(np.abs(layer.moving_mean).max() > 0 for layer in layers[:1])
        outcomes.append(gradients)
    for ours, theirs in zip(*outcomes, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("relu", [False, True])
def test_pytorch_computes_the_same(relu: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, to compare with")
    x, upstream = (torch.from_numpy(value).permute(0, 3, 1, 2) for value in images())
    layers = [torch.nn.BatchNorm2d(SHAPE[-1], eps=EPSILON) for _ in range(LAYERS)]
    y, gradients = batch_norm.torch_call(layers, relu, x, upstream)()
    np.testing.assert_allclose(y.detach().permute(0, 2, 3, 1), expected(relu), atol=1e-4)
    tf_gradients = batch_norm.keras_call(batch_norm.make_layers(False), relu, *map(tf.constant, images()))()[1]
    np.testing.assert_allclose(gradients[0].permute(0, 2, 3, 1), tf_gradients[0], atol=2e-3)


def test_page(tmp_path) -> None:
    factors = {OURS: 1.0, CONTIGUOUS: 2.0, CHANNELS_LAST: 0.5, STOCK: 4.0}
    times = {name: {case: [[factor], [2 * factor]] for case in CASES} for name, factor in factors.items()}
    comparison = Comparison(times, {OURS: {}}, environment(Plan()))
    targets = {target.text: target for target in batch_norm.targets(comparison)}
    assert len(targets) == 4
    assert targets["ours ÷ stock Keras, alone, geometric mean"].measured == pytest.approx(0.25)
    assert targets["ours ÷ the faster PyTorch, with ReLU, geometric mean"].measured == pytest.approx(2)
    table = batch_norm.cells(comparison)
    assert len(table) == 1 + 2 * len(batch_norm.SHAPES)
    assert table[1] == ["112x112x64", "1.5 (1–2)", "2 (2–2)", "0.5 (0.5–0.5)", "4 (4–4)"]
    files = write_page("x", batch_norm.TITLE, table, "", {}, list(targets.values()), (),
                       lambda figure: batch_norm.plot(figure, comparison), tmp_path)  # fmt: skip
    assert [file.suffix for file in files] == [".md", ".json", ".svg"]


def test_without_pytorch_only_keras_is_aimed_at() -> None:
    times = {name: {case: [[1.0]] for case in CASES} for name in (OURS, STOCK)}
    texts = [target.text for target in batch_norm.targets(Comparison(times, {}, environment(Plan())))]
    assert len(texts) == 2 and all("stock Keras" in text for text in texts)
