"""The suite `inference`: what its runners call, what its files hold, and what is made of the times."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from benchmarks import inference, inference_files, inference_page, inference_runners
from benchmarks.harness import Comparison, Plan
from benchmarks.inference_files import make
from benchmarks.inference_page import COMPILED, EIGHT, FUSED, LITE, ONE, ORT, SAVED, STOCK, TIMM, TIMM_LAST, TIMM_ORT
from benchmarks.networks import TEN
from keras_resnets.export.saved_model import write_saved_model

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are made on the TensorFlow backend", allow_module_level=True)

SMALL = "resnet20_cifar"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`path(maker)`: a file of the small network, made in this process."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference_files, "FOLDER", folder)
        patch.setattr(inference_files, "image_size", lambda network: 32)

        def made(maker: str, network: str = SMALL, peers_python: str = "") -> Path:
            path = inference_files.path_of(maker, network)
            if not path.exists():
                function, _, _ = inference_files.MAKERS[maker]
                function(network, path)
            return path

        patch.setattr(inference_files, "make", made)
        patch.setattr(inference, "make", made)
        yield made


def test_same_weights_in_every_file(files: Any) -> None:
    """The answers are those of a network into which the weights' file is loaded anew; its statistics matter."""
    network = kr.create_model(SMALL, weights=None, classifier_activation=None)
    known = np.load(files("answers"))
    assert known["images"].shape == (8, 32, 32, 3)
    assert np.abs(network.predict(known["images"], verbose=0) - known["logits"]).max() > 1e-2
    kr.load_pytorch_weights(network, files("weights"))
    np.testing.assert_allclose(network.predict(known["images"], verbose=0), known["logits"], atol=1e-5)
    variances = [v.numpy() for v in network.variables if v.path.endswith("moving_variance")]
    assert all((v != 1).all() for v in variances)


@pytest.mark.parametrize("name", [inference_page.KERAS, FUSED, SAVED, LITE, ORT])
def test_runners_give_the_logits(name: str, files: Any) -> None:
    """Each row, as the worker of its contender would call it."""
    if name == SAVED:  # with one signature, which takes a tenth of the time of a whole export
        write_saved_model(inference_files.network_of_ours(SMALL), inference_files.path_of("saved_model", SMALL))
    contender = inference.contender(name, SMALL, 1, "python")
    module, function = contender.target.split(":")
    assert module == inference_runners.__name__
    calls = getattr(inference_runners, function)(**contender.arguments)
    known = np.load(files("answers"))
    assert list(calls) == [ONE, EIGHT]
    for count, call in zip((1, 8), calls.values(), strict=True):
        np.testing.assert_allclose(call(), known["logits"][:count], atol=1e-4 * np.abs(known["logits"]).max())


def test_wrong_logits_are_no_contender(files: Any) -> None:
    known = np.load(files("answers"))
    wrong = known["logits"] * 1.001
    for tolerance, allowed in ((1e-4, False), (1e-2, True), (None, True)):
        arguments = (lambda batch: lambda images: wrong[: len(images)], str(files("answers")), tolerance)
        if allowed:
            assert len(inference_runners.measures(*arguments)) == 2
        else:
            with pytest.raises(RuntimeError, match="logits differ by 1.0e-03, allowed are 1e-04"):
                inference_runners.measures(*arguments)


def test_channels_first_runtimes_get_such_images(files: Any) -> None:
    seen = []

    def predict(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.load(files("answers"))["logits"][: len(images)]

    calls = inference_runners.measures(lambda batch: predict, str(files("answers")), 1e-6, [8], channels_first=True)
    assert list(calls) == [EIGHT] and seen[0].flags.c_contiguous
    np.testing.assert_array_equal(seen[0].transpose(0, 2, 3, 1), np.load(files("answers"))["images"])


def test_rows() -> None:
    """Every row can be run, every network has those that the targets compare."""
    for name, row in inference.ROWS.items():
        assert callable(getattr(inference_runners, row.runner)), name
        assert row.maker is None or row.maker in inference_files.MAKERS, name
    for network in TEN:
        rows = inference.rows_of(network)
        assert {FUSED, SAVED, ORT, TIMM, TIMM_LAST, COMPILED, TIMM_ORT, STOCK} <= rows.keys()
        assert (inference_page.APPLICATIONS_LITE in rows) == (network in ("densenet121", "inception_v3"))
    assert set(inference.rows_of("resnet50_v1")) == {LITE, inference_page.APPLICATIONS_LITE}
    left = inference.rows_of("resnet50", missing=["torch", "openvino"])
    assert ORT in left and not any(name.startswith("timm") or "OpenVINO" in name for name in left)


def test_files_are_made_again_when_the_package_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "keras_resnets"
    package.mkdir()
    monkeypatch.setattr(inference_files, "ROOT", tmp_path)
    paths = []
    for text in ("a = 1", "a = 1", "a = 2"):
        (package / "ops.py").write_text(text)
        inference_files._version.cache_clear()
        paths.append([inference_files.path_of(maker, "resnet50") for maker in ("onnx", "weights")])
    inference_files._version.cache_clear()
    assert paths[0] == paths[1] and paths[1][0] != paths[2][0] and paths[1][1] == paths[2][1]


def test_makes_a_file_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program leaves the file alone, without what its maker puts beside it, in the place of older ones."""
    monkeypatch.setattr(inference_files, "FOLDER", tmp_path)
    path = inference_files.path_of("onnx", SMALL)
    path.with_name(f"{SMALL}.onnx.older.onnx").touch()
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append(command)
        monkeypatch.setattr("sys.argv", command[2:])
        monkeypatch.setitem(inference_files.MAKERS, "onnx", (maker, ".onnx", False))
        inference_files.main()
        return subprocess.CompletedProcess(command, 0)

    def maker(network: str, made: Path) -> None:
        made.write_text(network)
        made.with_suffix(".report.json").touch()

    monkeypatch.setattr(inference_files.subprocess, "run", run)
    assert make("onnx", SMALL) == make("onnx", SMALL) == path
    assert len(calls) == 1 and calls[0][2:4] == ["benchmarks.inference_files", "onnx"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == SMALL


def test_file_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inference_files, "FOLDER", tmp_path)
    failed = subprocess.CompletedProcess([], 1, stderr="no such operator")
    monkeypatch.setattr(inference_files.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(SystemExit, match="onnx of resnet50 cannot be made:\nno such operator"):
        make("onnx", "resnet50")


def test_a_network_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is compared, and the page names who is missing."""
    written: list[Any] = []
    times = {
        name: {ONE: [[t, t + 1] for t in ts], EIGHT: []} for name, ts in TIMES.items() if not name.startswith("timm")
    }

    def compare(contenders: Any, plan: Plan) -> Comparison:
        assert not {each.name for each in contenders} & {TIMM, TIMM_ORT, ORT} and len(contenders) > 5
        return Comparison(times, {}, {})

    monkeypatch.setattr(inference, "make", lambda *arguments: Path("file"))
    monkeypatch.setattr(inference, "compare", compare)
    monkeypatch.setattr(inference, "can_import", lambda python, module: False)
    monkeypatch.setattr(inference, "write", lambda *arguments: written.append(arguments))
    inference.measure("resnet50", argparse.Namespace(peers_python="none", rounds=1, threads=1, plan=Plan()))
    ((name, title, _, reference, targets, remarks),) = written
    assert name == "inference_resnet50" and "224x224" in title and reference == LITE
    assert [target.measured for target in targets] == [0.75]
    assert sum(remark.startswith("Missing here") for remark in remarks) == 5


# Fastest calls of two rounds, one image.
TIMES = {
    FUSED: [60.0, 66.0], SAVED: [60.0, 60.0], LITE: [70.0, 70.0], ORT: [40.0, 44.0], TIMM: [90.0, 99.0], TIMM_LAST: [80.0, 80.0],
    COMPILED: [75.0, 75.0], TIMM_ORT: [50.0, 40.0], STOCK: [80.0, 80.0],
}  # fmt: skip


def test_comparisons() -> None:
    """Ours is the fastest artifact, timm's eager form the faster of its two; ratios are medians over rounds."""
    found = inference_page.comparisons(TIMES)
    assert found == pytest.approx({
        "best artifact ÷ timm → ONNX Runtime": (40 / 50 + 44 / 40) / 2,
        "fused predict ÷ timm, eager": (60 + 66) / 2 / 80,
        "fused predict ÷ timm, torch.compile": (60 + 66) / 2 / 75,
        "SavedModel ÷ stock Keras'": 0.75,
    })  # fmt: skip
    single = {target.text: target for target in inference_page.network_targets("resnet50", TIMES)}
    assert single[f"resnet50, {SAVED} ÷ {STOCK}, {ONE}"].met and len(single) == 2
    assert inference_page.network_targets("dpn68", TIMES) == []


def test_summary(tmp_path: Path) -> None:
    """A page over the networks that have pages; what was not there has no target."""
    assert inference_page.summarise(Plan(), tmp_path) == []
    for network, factor, cores in (("resnet50", 1.0, 2), ("dpn68", 4.0, 8)):
        rounds = {
            name: {ONE: [{"fastest": factor * t if name == FUSED else t} for t in ts], EIGHT: []}
            for name, ts in TIMES.items()
        }
        for name in rounds:
            rounds[name][EIGHT] = rounds[name][ONE]
        machine = {"system": "Linux", "machine": "x86_64", "vector_extensions": ["avx2"], "cores": cores}
        record = {
            "environment": machine,
            "remarks": ["Missing here: openvino"],
            "milliseconds_by_round": rounds,
        }
        (tmp_path / f"inference_{network}.json").write_text(json.dumps(record))
    inference_page.summarise(Plan(), tmp_path)
    record = json.loads((tmp_path / "inference.json").read_text())
    eager = next(target for target in record["targets"] if "eager" in target["text"])
    assert eager["measured"] == pytest.approx(63 / 80 * 2) and not eager["met"] and eager["headline"]
    assert "2 networks" in eager["text"] and "3.15, dpn68" in eager["text"]
    page = (tmp_path / "inference.md").read_text()
    assert "OpenVINO" not in page.split("Missing")[0] and page.count("Missing here: openvino") == 1
    assert "Measured on Linux, x86_64 (avx2), 8 cores: dpn68." in page and "2 cores: resnet50." in page
    assert (tmp_path / "inference.svg").exists()
