"""The SavedModel's signatures, through both of TensorFlow's loaders, in processes without Keras."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import ExportReport, export
from keras_resnets.export.saved_model import SavedModelExporter
from keras_resnets.export.serving import classifier_of, labels_of
from keras_resnets.preprocessing import Preprocess

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)
tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image", reason="Pillow makes the images")

BOTH_LOADERS = """
import sys
import numpy as np, tensorflow as tf
path, inputs, outputs = sys.argv[1:]
inputs = dict(np.load(inputs, allow_pickle=True))
answers = {}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def
    for name, values in inputs.items():
        ((_, feed),) = signatures[name].inputs.items()
        fetches = {key: tensor.name for key, tensor in signatures[name].outputs.items()}
        for count in (len(values), 1, 0):
            for key, value in session.run(fetches, {feed.name: values[:count]}).items():
                answers[f"session {name} {key} {count}"] = value
loaded = tf.saved_model.load(path)
for name, values in inputs.items():
    function = loaded.signatures[name]
    ((argument, spec),) = function.structured_input_signature[1].items()
    for key, value in function(**{argument: tf.constant(list(values), spec.dtype)}).items():
        answers[f"tf2 {name} {key} {len(values)}"] = value.numpy()
np.savez(outputs, **answers)
"""


def relative(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_both_loaders(served: Any, photographs: list[bytes], without_keras: Any, tmp_path: Path) -> None:
    """All signatures, in a copy elsewhere: nothing refers to where the export was made."""
    copy = tmp_path / "copy"
    shutil.copytree(served.version, copy)
    images = np.random.default_rng(1).normal(size=(5, 32, 32, 3)).astype("float32")
    files = np.array([*photographs[:6], b"no image"], object)
    np.savez(tmp_path / "in.npz", predict=images, features=images, serving_default=files)
    # Where the export was made there is nothing meanwhile.
    hidden = served.path.rename(served.path.with_name("hidden"))
    try:
        without_keras("python", "-c", BOTH_LOADERS, copy, tmp_path / "in.npz", tmp_path / "out.npz", cwd=tmp_path)
    finally:
        hidden.rename(served.path)
    answers = dict(np.load(tmp_path / "out.npz", allow_pickle=True))

    probabilities = served.model.predict(images, verbose=0)
    levels = kr.feature_extractor(served.model, ("C1", "C2", "C3", "C4")).predict(images, verbose=0)
    expected = np.stack([served.probabilities(file) for file in files[:6]])
    best = np.argsort(-expected, axis=1)[:, :5]
    for loader in ("session", "tf2"):
        assert relative(np.log(answers[f"{loader} predict predictions 5"]), np.log(probabilities)) < 1e-5
        for level, maps in levels.items():
            assert relative(answers[f"{loader} features {level} 5"], maps) < 1e-5
        found = {
            name: answers[f"{loader} serving_default {name} 7"]
            for name in ("classes", "labels", "probabilities", "status")
        }
        assert found["classes"][:6].tolist() == best.tolist() and found["classes"][6].tolist() == [-1] * 5
        assert found["labels"][:6].tolist() == [[str(i).encode() for i in row] for row in best]
        assert found["labels"][6].tolist() == [b""] * 5 and not found["probabilities"][6].any()
        np.testing.assert_allclose(found["probabilities"][:6], np.take_along_axis(expected, best, 1), atol=1e-5)
        assert found["status"][:6].tolist() == [b"ok"] * 6 and b"not an image" in found["status"][6]
    assert answers["session serving_default classes 1"].tolist() == best[:1].tolist()
    assert answers["session serving_default labels 0"].shape == (0, 5)
    assert answers["session serving_default status 0"].shape == (0,)
    assert answers["session predict predictions 0"].shape == (0, 10)


def test_report_and_size(served: Any) -> None:
    report = served.report
    assert ExportReport.from_json(served.version) == report and report.path == str(served.version)
    assert set(report.signatures) == {"predict", "features", "serving_default"}
    assert set(report.signatures["features"]) == {"C1", "C2", "C3", "C4"}
    for outputs in report.signatures.values():
        assert all(figures["relative_difference"] <= 1e-5 for figures in outputs.values())
    assert report.operators["Conv2D"] == 19 and "FusedBatchNormV3" not in report.operators
    weights = 4 * kr.fuse(served.model).count_params()
    assert (served.version / "variables" / "variables.data-00000-of-00001").stat().st_size < 1.05 * weights
    assert (served.version / "assets" / "labels.txt").read_text() == "".join(f"{i}\n" for i in range(10))


@pytest.fixture(scope="module")
def classify(served: Any) -> Callable[[list[bytes]], dict[str, np.ndarray]]:
    loaded = tf.saved_model.load(str(served.version))

    def answer(files: list[bytes]) -> dict[str, np.ndarray]:
        outputs = loaded.signatures["serving_default"](image_bytes=tf.constant(files, tf.string, (len(files),)))
        return {name: output.numpy() for name, output in outputs.items()}

    answer.loaded = loaded
    return answer


def of_every_kind() -> dict[str, bytes]:
    rng = np.random.default_rng(2)
    rgb = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype="uint8")).resize((83, 61), Image.Resampling.BICUBIC)
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(rng.integers(0, 256, (61, 83), dtype="uint8")))
    other, palette = rgb.rotate(90), rgb.quantize(16)
    deep = Image.fromarray(rng.integers(0, 65536, (61, 83), dtype="uint16"))
    files = {kind: encoded(rgb, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF")}
    files |= {f"{mode} PNG": encoded(rgba.convert(mode), "PNG") for mode in ("1", "L", "P", "LA", "RGBA")}
    files |= {f"{mode} BMP": encoded(rgb.convert(mode), "BMP") for mode in ("L", "P", "RGBA")}
    files |= {f"{mode} JPEG": encoded(rgb.convert(mode), "JPEG") for mode in ("L", "CMYK")}
    files["16-bit PNG"] = encoded(deep, "PNG")
    files["progressive JPEG"] = encoded(rgb, "JPEG", progressive=True)
    files["BMP with a tail"] = files["BMP"] + b"tail"
    files["lossless WebP with alpha"] = encoded(rgba, "WEBP", lossless=True)
    files["animated WebP"] = encoded(rgb, "WEBP", save_all=True, append_images=[other], lossless=True)
    files["animated WebP with alpha"] = encoded(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(90)])
    files["animated GIF"] = encoded(
        palette, "GIF", save_all=True, append_images=[other.quantize(7)], comment=b"." * 700
    )
    files["transparent GIF"] = encoded(palette, "GIF", transparency=3)
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "Maker", turn
        files |= {f"{kind} turned {turn}": encoded(rgb, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")}
    return files


def test_every_kind_of_image(served: Any, classify: Any) -> None:
    """As Pillow decodes them: the right way up, the first picture of several, without transparency."""
    files = of_every_kind()
    found = classify(list(files.values()))
    for (name, content), status, classes, scores in zip(
        files.items(), found["status"], found["classes"], found["probabilities"], strict=True
    ):
        assert status == b"ok", name
        # Pillow and TensorFlow round the mixture of four inks differently, by one level.
        tolerance = 0.02 if "CMYK" in name else 1e-5
        np.testing.assert_allclose(scores, served.probabilities(content)[classes], atol=tolerance, err_msg=name)


def test_corrupt_images_do_not_matter_to_others(classify: Any, photographs: list[bytes]) -> None:
    rng = np.random.default_rng(3)
    alone = classify(photographs[:4])
    kinds = list(of_every_kind().values())
    corrupt = [b"", b"\xff", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF....WEBPVP8X"]
    for content in [*photographs[:4], *kinds]:
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(damaged), 300), 8):
            damaged[place] = rng.integers(256)
        corrupt += [content[: len(content) // 2], bytes(damaged)]
    mixed = [*photographs[:2], *corrupt, *photographs[2:4]]
    found = classify(mixed)
    for name, values in alone.items():
        kept = np.concatenate([found[name][:2], found[name][-2:]])
        if name == "probabilities":
            np.testing.assert_allclose(kept, values, atol=1e-6)
        else:
            assert kept.tolist() == values.tolist()
    assert not (found["status"][2:10] == b"ok").any()
    bad = found["status"] != b"ok"
    assert bad.sum() > len(corrupt) / 3
    assert (found["classes"][bad] == -1).all() and not found["probabilities"][bad].any()
    assert (found["labels"][bad] == b"").all() and (found["classes"][~bad] >= 0).all()


def test_large_images_are_refused_unseen(classify: Any) -> None:
    """Small files that announce many pixels, of which one is decoded: that with just enough."""
    black = Image.new("1", (8001, 8001))
    gif = bytearray(encoded(Image.new("L", (9, 9)), "GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)]))
    second = gif.rindex(b"\x2c")
    gif[second + 5 : second + 9] = b"\xff" * 4  # the second frame's size, which nothing is to be reserved for
    long = encoded(Image.new("1", (70_000, 8)), "PNG")
    found = classify(
        [encoded(black, "PNG"), encoded(black, "GIF"), long, bytes(gif), encoded(Image.new("1", (8, 60_000)), "PNG")]
    )
    assert [status.split(b":")[0] for status in found["status"]] == [b"too large"] * 3 + [b"ok"] * 2


def small_model(activation: str | None = None) -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3)(image)
    return keras.Model(image, keras.layers.Dense(3, activation)(keras.layers.GlobalAveragePooling2D()(x)))


def test_model_of_another_maker(tmp_path: Path) -> None:
    """With a preprocessing it answers to files; logits become probabilities."""
    model = small_model()
    transform = Preprocess((0.5,) * 3, (0.5,) * 3, 8, 1.0, "bilinear")
    names = ["ein Fuchs", "a fox", "きつね"]
    export(model, tmp_path / "files", preprocessing=transform, labels=names, top_k=9, max_pixels=100)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype="uint8"))
    content = [encoded(image, "PNG"), encoded(image.resize((11, 10)), "PNG")]
    loaded = tf.saved_model.load(str(tmp_path / "files"))
    assert set(loaded.signatures) == {"predict", "serving_default"}
    found = loaded.signatures["serving_default"](image_bytes=tf.constant(content))
    logits = model(transform(np.asarray(image))[None])[0].numpy()
    order = np.argsort(-logits)
    np.testing.assert_allclose(found["probabilities"][0], np.exp(logits[order]) / np.exp(logits).sum(), rtol=1e-5)
    assert [label.decode() for label in found["labels"][0].numpy()] == [names[i] for i in order]
    assert found["status"].numpy().tolist() == [b"ok", b"too large: more than 100 pixels, or 65535 in a row"]


def test_labels() -> None:
    digits = kr.create_model("resnet20_cifar", weights="digits")
    assert labels_of(digits, 10, None) == list("0123456789")
    assert labels_of(small_model(), 3, None) == ["class 0", "class 1", "class 2"]
    names = labels_of(small_model(), 1000, None)
    assert names[0] == "tench" and names[-1] == "toilet tissue" and len(names) == 1000
    for labels, message in ((["a", "b"], "each of the model's 3 classes, not 2"), (["a", "b\nc", "d"], "lines of text"),
                            (["a", "", "c"], "lines of text"), ("digit", "did you mean 'digits'")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            labels_of(small_model(), 3, labels)


def test_which_models_classify() -> None:
    """Sigmoid and softmax stay, logits are found; what is no classifier of RGB squares is left to floats."""
    transform = Preprocess((0.5,) * 3, (0.5,) * 3, 8)

    def of(model: keras.Model, preprocessing: Preprocess | None = None) -> Any:
        return classifier_of(model, preprocessing, None, 5, 100)

    assert of(small_model("softmax"), transform).softmax is of(small_model("sigmoid"), transform).softmax is False
    assert of(small_model(), transform).softmax is True and of(small_model()) is None
    small = {"depth": 1, "classes": 7}
    assert of(kr.create_model("resnet20_cifar", **small)).top_k == 5
    assert of(kr.create_model("resnet20_cifar", **small, classifier_activation=None)).softmax is True
    assert of(kr.create_model("resnet20_cifar", depth=1, include_top=False, pooling="avg")) is None
    assert of(kr.create_model("resnet20_cifar", **small, input_shape=(32, 48, 3))) is None
    assert of(kr.create_model("resnet20_cifar", **small, input_shape=(32, 32, 1))) is None
    assert of(kr.create_model("resnet20_cifar", **small, input_shape=(None, None, 3))).transform.input_size == 32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 0}, "top_k must be a whole number from 1 to .*, not 0"),
        ({"top_k": 2.0}, "top_k must be"),
        ({"version": True}, "version must be"),
        ({"version": -1}, "version must be"),
        ({"max_pixels": 1 << 30}, "max_pixels must be a whole number from 64 to 268435455"),
        ({"labels": ["a", "b", "c"]}, "labels needs preprocessing= as well"),
        ({"preprocessing": Preprocess((0.5,) * 3, (0.5,) * 3)}, "preprocessing must be .* with an input_size"),
        ({"preprocessing": "imagenet"}, "preprocessing must be a keras_resnets.preprocessing.Preprocess"),
        ({"preprocessing": Preprocess((0.5,) * 3, (0.5,) * 3, 9)}, r"gives \(batch, 9, 9, 3\) floats, the model takes"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(small_model(), tmp_path / "a", **options)
    assert not list(tmp_path.iterdir())


def test_options_are_documented() -> None:
    options = {"labels", "top_k", "preprocessing", "max_pixels", "version", "warmup"}
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    assert all(f"| `{option}` |" in page for option in options)
    assert all(f"{option}:" in (SavedModelExporter.__doc__ or "") for option in options)
