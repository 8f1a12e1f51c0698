"""The proof repeated: what `verify` accepts and what it finds."""

import json
from pathlib import Path

import keras
import pytest

import keras_resnets as kr
from keras_resnets.cli import main
from keras_resnets.export import ArtifactError, ExportReport, export, verify

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return kr.create_model("resnet20_cifar", depth=1)


@pytest.fixture(scope="module")
def onnx_file(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export(network, path, "onnx")
    return path


@pytest.fixture
def copy(onnx_file: Path, tmp_path: Path) -> Path:
    """The artifact and its companions, moved to another place."""
    for file in onnx_file.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / onnx_file.name


def other_kernel(path: Path) -> None:
    """One weight of the ONNX file made twice as large: a valid file of the same size."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    kernel = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    kernel.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, path)


def test_a_moved_artifact(copy: Path) -> None:
    made, again = ExportReport.from_json(copy), verify(copy)
    assert again.path == str(copy) and again.operators == made.operators and again.sha256 == made.sha256
    assert again.relative_difference <= made.relative_difference and again.top1_agreement == 1
    assert (again.real_images, again.random_images) == (6, 6) and again.latency_ms > 0


def test_a_large_network_stores_some_of_its_images(tmp_path: Path) -> None:
    """At 224 pixels an input has 602 kB: six of twelve stay, the real ones."""
    model = kr.create_model("resnet20_cifar", depth=1, input_shape=(224, 224, 3), classifier_activation=None)
    made = export(model, tmp_path / "net.tflite", "tflite")
    assert (made.real_images, made.random_images) == (6, 6)
    again = verify(tmp_path / "net.tflite")
    assert (again.real_images, again.random_images) == (6, 0) and again.partitions == made.partitions
    assert (tmp_path / "net.tflite.proof.npz").stat().st_size < 4_500_000


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_changed_artifact(copy: Path, rewritten: bool) -> None:
    """Found by its digest; and where the report was changed to fit, by what it computes."""
    other_kernel(copy)
    if rewritten:
        from hashlib import sha256

        report = Path(f"{copy}.report.json")
        values = {**json.loads(report.read_text()), "sha256": sha256(copy.read_bytes()).hexdigest()}
        report.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="more than tolerance" if rewritten else "SHA-256 has changed"):
        verify(copy)


def test_saved_model_and_its_files(network: keras.Model, tmp_path: Path) -> None:
    made = export(network, tmp_path / "net")
    (tmp_path / "net").rename(tmp_path / "moved")
    again = verify(tmp_path / "moved")
    assert set(again.signatures) == set(made.signatures) and len(again.environment) >= 5
    (tmp_path / "moved" / "fingerprint.pb").write_bytes(b"")
    with pytest.raises(ArtifactError, match="SHA-256 has changed"):
        verify(tmp_path / "moved")


def test_what_cannot_be_verified(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        verify(tmp_path / "absent.onnx")
    proof, report = Path(f"{copy}.proof.npz"), Path(f"{copy}.report.json")
    proof.write_bytes(proof.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="stored proof .* cannot be read"):
        verify(copy)
    proof.unlink()
    with pytest.raises(ArtifactError, match="stored proof .* cannot be read"):
        verify(copy)
    report.unlink()
    with pytest.raises(ArtifactError, match="cannot be verified: .*report.json' is not an export report"):
        verify(copy)


def test_commands(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "computes what its model computed" in printed and "6 real and 6 random images" in printed
    assert main(["benchmark", str(copy), str(copy), "--batch-size", "2", "--rounds", "1", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["artifact"] == second["artifact"] == str(copy) and 0 < first["min_ms"] <= first["max_ms"]
    other_kernel(copy)
    assert main(["verify", str(copy)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "SHA-256 has changed" in line
    assert main(["benchmark", str(copy), "--rounds", "0"]) == 1
