"""What lies around a SavedModel for TF Serving, and the guide's commands and clients, over a real socket."""

import os
import re
import shutil
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnets.export import export, saved_model
from keras_resnets.export.serving_files import BATCHING, CONFIG, WARMUP

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)
tf = pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")


def code(language: str, text: str) -> str:
    """The one block of the guide that holds `text`."""
    (block,) = (block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if text in block)
    return block


@pytest.fixture(scope="module")
def protos() -> Any:
    """The messages of TF Serving, as its own package declares them."""
    pytest.importorskip(
        "tensorflow_serving", reason="tensorflow-serving-api is not installed: its messages are the reference"
    )
    from google.protobuf import text_format
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2

    class Protos:
        text, predict, log, config = text_format, predict_pb2, prediction_log_pb2, model_server_config_pb2

    return Protos


def test_warm_up_requests(served: Any, protos: Any) -> None:
    """A server would run them: every signature, in batches of one and more."""
    loaded = tf.saved_model.load(str(served.version))
    sizes: dict[str, list[int]] = {}
    for record in tf.data.TFRecordDataset(str(served.version / WARMUP)).as_numpy_iterator():
        log = protos.log.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name
        ((name, tensor),) = request.inputs.items()
        values = tf.make_ndarray(tensor)
        outputs = loaded.signatures[request.model_spec.signature_name](**{name: tf.constant(values)})
        assert {len(value) for value in outputs.values()} == {len(values)}
        if "status" in outputs:
            assert set(outputs["status"].numpy()) == {b"ok"}
        sizes.setdefault(request.model_spec.signature_name, []).append(len(values))
    assert set(sizes) == set(loaded.signatures) and all(min(each) == 1 < max(each) for each in sizes.values())
    assert (served.version / WARMUP).stat().st_size < 500_000


def test_configuration(served: Any, protos: Any) -> None:
    config = protos.text.Parse((served.path / CONFIG).read_text(), protos.config.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("digits", "/models/digits", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    # Its message is not in tensorflow-serving-api: its fields, from TF Serving's session_bundle_config.proto.
    fields = re.findall(r"^(\w+) \{ value: (\d+) \}$", (served.path / BATCHING).read_text(), re.MULTILINE)
    assert dict(fields).keys() == {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches"}


@pytest.fixture
def model() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3)(image)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def test_versions(served: Any, model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other into a directory; that of a model without files as input, too."""
    path = tmp_path / "net"
    shutil.copytree(served.path, path)
    layout = [BATCHING, CONFIG, "1"]
    assert sorted(entry.name for entry in path.iterdir()) == sorted(layout)
    (path / CONFIG).write_text("edited")

    # While a version is made and moved into place, a server that watches sees nothing of it.
    seen: list[set[str]] = []
    write = saved_model.SavedModelExporter.finish

    def watched(self: Any, *arguments: Any) -> None:
        seen.append({entry.name for entry in path.iterdir() if not entry.name.startswith(".")})
        write(self, *arguments)

    monkeypatch.setattr(saved_model.SavedModelExporter, "finish", watched)
    report = export(model, path, version=12, warmup=False)
    assert report.path == str(path / "12") and report.options["version"] == 12
    assert seen == [set(layout)] and (path / CONFIG).read_text() == "edited"
    assert sorted(entry.name for entry in path.iterdir()) == sorted([*layout, "12"])

    assert set(report.signatures) == {"predict", "serving_default"} and not (path / "12" / "assets.extra").exists()
    images = np.ones((2, 8, 8, 3), "float32")

    def answer() -> np.ndarray:
        (values,) = tf.saved_model.load(str(path / "12")).signatures["serving_default"](image=images).values()
        return values.numpy()

    np.testing.assert_allclose(answer(), model(images), rtol=1e-4)

    with pytest.raises(ValueError, match=r"net/12' exists: give overwrite=True"):
        export(model, path, version=12)
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    export(model, path, version=12, overwrite=True, warmup=False)
    np.testing.assert_allclose(answer(), model(images), rtol=1e-4)
    assert sorted(entry.name for entry in path.iterdir()) == sorted([*layout, "12"])

    for options in ({}, {"overwrite": True}):
        with pytest.raises(ValueError, match="holds versions of a model: give version="):
            export(model, path, **options)
    with pytest.raises(ValueError, match="1' is a SavedModel: versions need a directory of their own"):
        export(model, path / "1", version=3)
    with pytest.raises(ValueError, match="models.config' is a file: versions need a directory"):
        export(model, path / CONFIG, version=3)


def test_refused_version_leaves_nothing(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_model.files, "write_warmup", full)
    with pytest.raises(ValueError, match="cannot be written: .*No space left"):
        export(model, tmp_path / "net", version=1)
    assert not list(tmp_path.iterdir())


def test_guide_exports(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of the guide is the one that the other tests' artifact was made with."""
    monkeypatch.chdir(tmp_path)
    calls: list[Any] = []
    monkeypatch.setattr("keras_resnets.export", lambda *args, **options: calls.append((args[1:], options)))
    exec(code("python", "kr.export("), {})
    assert calls[0] == (("digits",), {"version": 1}) and calls[1] == (("digits",), {"version": 2})
    assert served.path.name == "digits"


def test_guide_deploys(served: Any) -> None:
    """Paths and names in the commands and manifests are those of the export."""
    import yaml

    config = (served.path / CONFIG).read_text()
    files = {f"/models/digits/{entry.name}" for entry in served.path.iterdir()}
    flags = re.findall(r"--(\w+)=(\S+)", code("bash", "docker run"))
    deployment, service = yaml.safe_load_all(code("yaml", "kind: Deployment"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for name, value in flags + [re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in container["args"]]:
        assert not name.endswith("_file") or value in files
    (mount,) = container["volumeMounts"]
    assert f'base_path: "{mount["mountPath"]}"' in config
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (
        service["spec"]["selector"].items() <= labels.items() == deployment["spec"]["selector"]["matchLabels"].items()
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe].keys() & {"httpGet", "tcpSocket"}


def test_guide_command_line(served: Any, photographs: list[bytes], without_keras: Any, tmp_path: Path,
                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "digits").symlink_to(served.path)
    (tmp_path / "photo.jpg").write_bytes(photographs[0])
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    shown = without_keras("bash", "-ec", code("bash", "saved_model_cli run"), cwd=tmp_path).stdout
    assert "inputs['image_bytes']" in shown and "outputs['status']" in shown
    best = served.probabilities(photographs[0]).argmax()
    assert re.search(rf"output key labels:\s*\[\[b'{best}'", shown) and "b'ok'" in shown


def test_guide_grpc_client(served: Any, photographs: list[bytes], protos: Any, tmp_path: Path) -> None:
    """The client of the guide against a server of TF Serving's service that runs the SavedModel."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    loaded = tf.saved_model.load(str(served.version))

    loaded.signatures["serving_default"](image_bytes=tf.constant(photographs[:1]))  # the first call takes its time

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            assert request.model_spec.name == "digits"
            inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
            answer = protos.predict.PredictResponse()
            for name, value in loaded.signatures[request.model_spec.signature_name](**inputs).items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return answer

    files = []
    for i, content in enumerate([*photographs[:3], b"no image"]):
        files.append(tmp_path / f"{i}.jpg")
        files[-1].write_bytes(content)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        names: dict[str, Any] = {}
        exec(code("python", "PredictionServiceStub"), names)
        found = names["classify"](files, f"localhost:{port}")
    finally:
        server.stop(None).wait()
    assert [row["labels"][0] for row in found[:3]] == [
        str(served.probabilities(file).argmax()) for file in photographs[:3]
    ]
    np.testing.assert_allclose(found[0]["probabilities"][0], served.probabilities(photographs[0]).max(), atol=1e-5)
    assert [row["status"] == "ok" for row in found] == [True] * 3 + [False]
