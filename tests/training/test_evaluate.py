"""The evaluation program: on digits and on folders of images, with several networks, views and kinds of wrong input."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import keras_resnets as kr
from keras_resnets.preprocessing import expected_input, load_image, preprocess_input
from keras_resnets.weights.labels import imagenet_classes
from training import results
from training.crops import ten_crop
from training.ensemble import Member, ask, open_member
from training.evaluate import Evaluation, main, per_class_table
from training.recipe import load_recipe
from training.run_folder import RunFolder
from training.sources import digits, folder, open_source, outputs_of_classes

IMAGENET = imagenet_classes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six parts of two photos in a folder per class, one of them in a folder further down; and what is no image."""
    root = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (root / name / "more").mkdir(parents=True)
        for number, part in enumerate((photo[:200, :300], photo[100:, 200:], photo)):
            Image.fromarray(part).save(root / name / ("more" if number == 2 else "") / f"{number}.png")
    (root / ".hidden").mkdir()
    (root / "temple" / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of two classes, the second with logits for its output."""
    paths = []
    for seed, activation in enumerate(("softmax", None)):
        keras.utils.set_random_seed(seed)
        network = kr.create_model("resnext29_2x64d_cifar", depth=1, classes=2, classifier_activation=activation)
        paths.append(tmp_path_factory.mktemp("networks") / f"network{seed}.keras")
        network.save(paths[-1])
    return paths


def expected_probabilities(network: Path, root: Path) -> np.ndarray:
    """Of the photos in the order of their paths, one image at a time."""
    model = keras.models.load_model(network)
    files = sorted(root.rglob("*.png"), key=lambda file: (file.relative_to(root).parts[0], file))
    inputs = preprocess_input(np.stack([load_image(file, expected_input(model)) for file in files]), model)
    outputs = model.predict(inputs, verbose=0)
    return outputs if network.stem == "network0" else keras.ops.convert_to_numpy(keras.ops.softmax(outputs))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_top() -> None:
    """By hand: the true classes are the second, the third, and of two equally probable ones the later."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.4, 0.2, 0.4]])
    evaluation = Evaluation(probabilities, np.array([1, 2, 2]))
    assert [evaluation.top(count) for count in (1, 2, 3)] == pytest.approx([0, 2 / 3, 1])
    assert evaluation.accuracy == 0


def test_published_weights_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "resnet20_cifar:digits", "--data", "digits", "--out", tmp_path)
    assert code == 0 and "of 360 test images" in said
    found = json.loads((tmp_path / "evaluation.json").read_text())
    published = kr.model_info("resnet20_cifar").weights["digits"].top1
    assert 100 * found["top1"] == pytest.approx(published, abs=0.3) and found["top5"] >= found["top1"]
    assert found["images"] == 360 == np.sum(found["confusion"]) and found["skipped"] == []
    assert [row["name"] for row in found["classes"]] == list("0123456789")
    assert sum(row["images"] for row in found["classes"]) == 360
    (member,) = found["members"]
    assert (member["input_size"], member["short_side"], member["interpolation"]) == (32, 32, "bilinear")
    page = (tmp_path / "evaluation.md").read_text()
    assert page.startswith("# resnet20_cifar:digits\n") and "| 9 |" in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "evaluation.json", "evaluation.md", "confusion.png", "predictions.png",
    }  # fmt: skip


def test_folder_and_ensemble(
    photos: Path, networks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ensemble's answer is the mean of probabilities that were worked out one network and one image at a time."""
    each = [expected_probabilities(network, photos) for network in networks]
    source = folder(photos)
    assert source.class_names == ("flower", "temple") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    answers = ask([open_member(str(network)) for network in networks], source, crops=1, batch_size=4)
    np.testing.assert_allclose(answers.by_member, each, atol=1e-5)
    np.testing.assert_allclose(answers.probabilities, np.mean(each, axis=0), atol=1e-5)

    code, said, _ = run(capsys, *networks, "--data", f"folder:{photos}", "--out", tmp_path)
    assert code == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    right = np.array([0, 0, 0, 1, 1, 1])
    assert found["accuracy"] == np.mean(np.mean(each, axis=0).argmax(axis=1) == right)
    assert [member["top1"] for member in found["members"]] == [np.mean(one.argmax(axis=1) == right) for one in each]
    assert found["class_names"] == ["flower", "temple"] and "temple" in said


@pytest.mark.parametrize("crops", [10, pytest.param(144, marks=pytest.mark.slow)])
def test_views_are_averaged(photos: Path, networks: list[Path], crops: int) -> None:
    member, source = open_member(str(networks[0])), folder(photos)
    source = dataclasses.replace(source, labels=source.labels[:2])
    answers = ask([member], source, crops, batch_size=48)
    assert answers.probabilities.shape == (2, 2)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, rtol=1e-5)
    if crops == 10:  # the short side of a network without published weights is 36 = int(32 / 0.875)
        image = Image.open(photos / "flower" / "0.png").resize((54, 36), Image.Resampling.BICUBIC)
        inputs = preprocess_input(ten_crop(np.asarray(image), 32), member.network)
        np.testing.assert_allclose(
            answers.probabilities[0], member.network.predict(inputs, verbose=0).mean(axis=0), atol=1e-5
        )


def test_digits_of_a_folder_are_known_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Image files of threes and sevens only, which are outputs 3 and 7."""
    held_out = open_source("digits")
    for digit in (3, 7):
        (tmp_path / "digits" / str(digit)).mkdir(parents=True)
        for number in np.flatnonzero(held_out.labels == digit)[:4]:
            held_out.read(int(number)).save(tmp_path / "digits" / str(digit) / f"{number}.png")
    code, said, _ = run(capsys, "resnet20_cifar", "--data", f"folder:{tmp_path / 'digits'}", "--out", tmp_path / "out")
    assert code == 0 and "100.00% of 8 test images" in said
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [(row["name"], row["images"]) for row in found["classes"]] == [("3", 4), ("7", 4)]


def test_unreadable_images_are_counted_and_named(
    photos: Path, networks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "broken.jpg").write_text("no image")
    data = f"folder:{tmp_path / 'data'}"
    code, _, error = run(capsys, networks[0], "--data", data, "--out", tmp_path / "none")
    assert code == 1 and "none of the 2 images can be read" in error and not (tmp_path / "none").exists()
    for name in ("a", "b"):
        Image.open(photos / "flower" / "0.png").save(tmp_path / "data" / name / "whole.png")
    code, said, _ = run(capsys, networks[0], "--data", data, "--out", tmp_path / "out")
    assert code == 0 and "2 images cannot be read" in said and "broken.jpg" in said and "of 2 test images" in said
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["images"] == 2 and len(found["skipped"]) == 2 and "broken.jpg" in found["skipped"][0]
    assert "broken.jpg" in (tmp_path / "out" / "evaluation.md").read_text()


def test_wrong_input(photos: Path, networks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = kr.create_model("resnext29_2x64d_cifar", depth=1, classes=3)
    three.save(tmp_path / "three.keras")
    kr.create_model("resnext29_2x64d_cifar", depth=1, include_top=False).save(tmp_path / "headless.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "foreign.keras")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "class").mkdir(parents=True)
    (tmp_path / "broken.keras").write_text("no network")
    here = f"folder:{photos}"
    cases: list[tuple[list[object], str]] = [
        ([networks[0]], "--data is needed"),
        ([networks[0], "--data", "digit"], "did you mean 'digits'"),
        ([networks[0], "--data", "folder:"], "'folder:PATH'"),
        ([networks[0], "--data", f"folder:{tmp_path / 'absent'}"], "does not exist"),
        ([networks[0], "--data", f"folder:{tmp_path / 'empty'}"], "one folder of images per class"),
        ([networks[0], "--data", f"folder:{tmp_path / 'bare'}"], "has no image files"),
        ([tmp_path / "three.keras", "--data", here], "2 classes (flower, temple), the network has 3"),
        (["resnet20_cifar", "--data", here], "'flower' is no name of one of them"),
        ([networks[0], tmp_path / "three.keras", "--data", here], "must have as many classes"),
        ([tmp_path / "headless.keras", "--data", here], "built without its top"),
        ([tmp_path / "foreign.keras", "--data", here], "is not a network of keras_resnets"),
        ([tmp_path / "absent.keras", "--data", here], "does not exist"),
        ([tmp_path / "empty", "--data", here], "final.keras"),
        (["resnet_20", "--data", "digits"], "did you mean"),
        (["resnet20_cifar:digit", "--data", "digits"], "'digits'"),
        (["plain18", "--data", "digits"], "no published weights"),
        (["resnet20_cifar", "--data", "digits", "--test-size"], "no second setting"),
        ([networks[0], "--data", here, "--batch-size", "0"], "--batch-size must be at least 1"),
    ]
    for arguments, message in cases:
        code, _, error = run(capsys, *arguments, "--out", tmp_path / "out")
        assert code == 1 and message in error, (arguments, error)
    assert not (tmp_path / "out").exists()
    assert run(capsys, tmp_path / "broken.keras", "--data", here)[0] == 1


def test_outputs_by_name_number_and_order() -> None:
    synsets = ["n15075141", "n02099601"]  # toilet tissue, golden retriever
    assert outputs_of_classes(synsets, 1000, IMAGENET).tolist() == [999, 207]
    assert outputs_of_classes(["tench", "golden retriever"], 1000, IMAGENET).tolist() == [0, 207]
    names = [str(number) for number in range(12)]
    assert outputs_of_classes(sorted(names), 12, None).tolist() == [int(name) for name in sorted(names)]
    assert outputs_of_classes(["ant", "bee"], 2, None).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"3 classes \(a, b, c\), the network has 2"):
        outputs_of_classes(["a", "b", "c"], 2, None)
    with pytest.raises(ValueError, match=r"'n02099602' is no name.*'n02099601'"):
        outputs_of_classes(["n15075141", "n02099602"], 1000, IMAGENET)


def test_class_names_of_imagenet() -> None:
    """A thousand, in the order of WordNet's numbers, each told from the others."""
    assert len(IMAGENET) == 1000 == len({label for _, label in IMAGENET})
    assert [synset for synset, _ in IMAGENET] == sorted({synset for synset, _ in IMAGENET})
    known = {
        0: "tench",
        1: "goldfish",
        207: "golden retriever",
        281: "tabby",
        340: "zebra",
        817: "sports car",
        954: "banana",
    }
    assert {place: IMAGENET[place][1] for place in known} == known


@pytest.mark.slow
def test_runs_on_what_they_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of one recipe are an ensemble; a third that held out other images is none of theirs."""
    recipe = load_recipe("digits_resnet20")
    for name in ("one", "two", "three"):
        changed = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=int(name == "three")))
        run_folder = RunFolder(tmp_path / name)
        run_folder.open(changed)
        kr.create_model("resnet20_cifar", weights="digits").save(run_folder.final)
    runs = [tmp_path / name for name in ("one", "two", "three")]
    code, said, _ = run(capsys, *runs[:2], "--out", tmp_path / "out")
    assert code == 0 and "of 360 test images" in said
    assert not (tmp_path / "one" / "evaluation.json").exists()
    code, _, error = run(capsys, *runs, "--out", tmp_path / "other")
    assert code == 1 and "held out different images" in error
    assert run(capsys, runs[0])[0] == 0 and (runs[0] / "evaluation.md").exists()
    assert "best.keras" in run(capsys, runs[0], "--weights", "best")[2]


def test_many_classes_are_a_short_table() -> None:
    """Of a thousand classes with images only those with the lowest recall, and none without images."""
    labels = np.arange(100)
    probabilities = np.eye(1000)[np.where(labels < 3, 999, labels)]
    table = per_class_table(Evaluation(probabilities, labels), [str(number) for number in range(1000)], most=5)
    assert list(table.columns[0].cells) == ["0", "1", "2", "3", "4"]
    assert list(table.columns[3].cells) == ["0.0%"] * 3 + ["100.0%"] * 2
    assert "the 5 of 100" in str(table.title)


def test_markdown_survives_bars_in_names() -> None:
    report = results.Report("a", "b", 1, (), np.eye(2, dtype=int), ("x|y", "z"), 1.0, 1.0)
    assert "| x\\|y | 1 | 1 | 100.0% | 100.0% |" in report.to_markdown()


def test_ensemble_of_equals_is_the_one() -> None:
    held_out = digits()
    few = dataclasses.replace(held_out, labels=held_out.labels[:9])
    member = open_member("resnet20_cifar")
    twin = Member("twin", member.network, member.entry)
    answers = ask([member, twin], few, crops=1, batch_size=5)
    np.testing.assert_array_equal(answers.by_member[0], answers.by_member[1])
    np.testing.assert_allclose(answers.probabilities, answers.by_member[0])
