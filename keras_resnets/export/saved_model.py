"""TensorFlow SavedModel, readable by TF Serving and by both loaders of TensorFlow."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnets.export import serving_files as files
from keras_resnets.export.base import Arrays, Exporter, Probe, inference, outputs_as_arrays, signature
from keras_resnets.export.serving import (
    Classifier,
    any_batch,
    classifier_of,
    encoded_images,
    features,
    label_table,
    traced,
)
from keras_resnets.export.serving_probe import classification_probe, photographs
from keras_resnets.preprocessing import Preprocess


@dataclasses.dataclass(kw_only=True)
class SavedModelExporter(Exporter):
    """A directory for TF Serving with up to three signatures, each for batches of any size.

    * "predict": `image`, as the model takes it → the model's outputs by name;
    * "features": `image` → feature maps of the levels that the model has, "C1" to "C5", see `feature_extractor`;
    * "serving_default": `image_bytes`, encoded images of any size → `classes`, `labels`, `probabilities` of the most probable
      classes, `(batch, top_k)`, and `status` `(batch,)`: "ok", or why an image could not be used. For models that are not of
      this package and come without `preprocessing`, and for those that are no classifiers, it is the same as "predict".

    Attributes:
        labels: a name for each class, "imagenet" or "digits". By default ImageNet's for 1000 classes, the digits' for weights
            "digits", else "class 0" and so on.
        top_k: how many classes are answered; all of them if there are fewer.
        preprocessing: from pixels to the input, with an `input_size`; by default that of the network's weights.
        max_pixels: larger images are not decoded but flagged.
        version: number of the model's version, under which the SavedModel is put into the directory: the layout that a server
            watches. Beside it come `models.config` and `batching_parameters.txt`, if they are not there.
        warmup: put requests into the directory that a server runs before it takes others.
    """

    suffix = ""
    packages = ("tensorflow", "PIL")

    labels: str | Sequence[str] | None = None
    top_k: int = 5
    preprocessing: Preprocess | None = None
    max_pixels: int = 50_000_000
    version: int | None = None
    warmup: bool = True
    classifier: Classifier | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_whole("top_k", self.top_k, 1, 1 << 31)
        _require_whole("max_pixels", self.max_pixels, 64, 1 << 28)  # more would overflow in TensorFlow's decoders
        if self.version is not None:
            _require_whole("version", self.version, 1, 1 << 63)

    def target(self, path: Path) -> Path:
        if self.version is None:
            if files.has_versions(path):
                raise ValueError(f"path {os.fspath(path)!r} holds versions of a model: give version=")
            return path
        if path.exists() and not path.is_dir():
            raise ValueError(f"path {os.fspath(path)!r} is a file: versions need a directory")
        if files.is_saved_model(path):
            raise ValueError(f"path {os.fspath(path)!r} is a SavedModel: versions need a directory of their own")
        return path / str(self.version)

    def prepare(self, model: keras.Model) -> keras.Model:
        model = super().prepare(model)
        self.classifier = classifier_of(model, self.preprocessing, self.labels, self.top_k, self.max_pixels)
        return model

    def convert(self, model: keras.Model, path: Path) -> None:
        archive, image = keras.export.ExportArchive(), signature(model)
        endpoints = {"predict": traced(inference(model), image)}
        levels = features(model)
        if levels is not None:
            endpoints["features"] = traced(inference(levels), image)
        for name, function in endpoints.items():
            archive.add_endpoint(name, any_batch(function), input_signature=image)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            if self.classifier is None:
                archive.add_endpoint("serving_default", any_batch(endpoints["predict"]), input_signature=image)
            else:
                names = _labels(archive, self.classifier, Path(folder, "labels.txt"))
                classify = self.classifier.function(endpoints["predict"], names)
                archive.add_endpoint("serving_default", any_batch(classify), input_signature=encoded_images())
            archive.write_out(str(path), verbose=False)
        if self.warmup:
            files.write_warmup(path, self._requests(model, [*endpoints]))

    def _requests(self, model: keras.Model, endpoints: list[str]) -> Iterator[tuple[str, str, Any]]:
        """Warm-up requests of every signature in several batch sizes."""
        import tensorflow as tf

        (spec,) = signature(model)
        shape = [size or (self.classifier.transform.input_size if self.classifier else 224) for size in spec.shape[1:]]
        for batch in files.WARMUP_BATCHES:
            if self.classifier is not None:
                (file, *_) = photographs(self.max_pixels)
                yield "serving_default", "image_bytes", tf.make_tensor_proto([file] * batch)
            for name in endpoints if self.classifier else [*endpoints, "serving_default"]:
                yield name, "image", tf.make_tensor_proto(0, spec.dtype, [batch, *shape])

    def probes(self, model: keras.Model, inputs: np.ndarray, reference: Arrays) -> list[Probe]:
        found = super().probes(model, inputs, reference)
        levels = features(model)
        if levels is not None:
            few = inputs[sorted({0, len(inputs) // 2, len(inputs) - 1})]
            found.append(Probe("features", {"image": few}, outputs_as_arrays(levels, few), batch=2))
        if self.classifier is None:
            return [*found, Probe("serving_default", {"image": inputs}, reference)]
        return [*found, classification_probe(self.classifier, model)]

    def published(self, target: Path) -> None:
        if self.version is not None:
            files.write_configuration(target.parent)


def _require_whole(option: str, value: Any, least: int, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < limit:
        raise ValueError(f"{option} must be a whole number from {least} to {limit - 1}, not {value!r}")


def _labels(archive: Any, classifier: Classifier, file: Path) -> Any:
    """The table of labels, in `file`, which becomes a part of the archive."""
    import tensorflow as tf

    file.write_text("".join(f"{label}\n" for label in classifier.labels), "utf-8")
    table = label_table(file)
    # A table and its file are found again only from what the archive itself holds.
    archive._tf_trackable.labels, archive._tf_trackable.labels_file = table, tf.saved_model.Asset(str(file))
    return table


def write_saved_model(model: keras.Model, path: Path, batch_size: int | None = None) -> None:
    """Writes `model` with the one signature "predict", for batches of `batch_size` or of any size: for converters.

    Through `ExportArchive`, because TF Serving's loader does not find the variables of a Keras model that
    `tf.saved_model.save` wrote; without `track`, which saves every variable a second time.
    """
    archive = keras.export.ExportArchive()
    archive.add_endpoint("predict", inference(model), input_signature=signature(model, batch_size))
    archive.write_out(str(path), verbose=False)
