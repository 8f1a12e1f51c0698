"""TensorFlow SavedModel, readable by TF Serving and by both loaders of TensorFlow."""

import dataclasses
from pathlib import Path

import keras

from keras_resnets.export.base import Exporter, inference, signature


@dataclasses.dataclass(kw_only=True)
class SavedModelExporter(Exporter):
    """A directory with the signature "predict", "serving_default" too: `image` in any batch size → the model's output."""

    suffix = ""
    packages = ("tensorflow",)

    def convert(self, model: keras.Model, path: Path) -> None:
        write_saved_model(model, path)


def write_saved_model(model: keras.Model, path: Path, batch_size: int | None = None) -> None:
    """Writes `model` for batches of `batch_size`, or of any size.

    Through `ExportArchive`, because TF Serving's loader does not find the variables of a Keras model that
    `tf.saved_model.save` wrote; without `track`, which saves every variable a second time.
    """
    archive = keras.export.ExportArchive()
    archive.add_endpoint("predict", inference(model), input_signature=signature(model, batch_size))
    archive.write_out(str(path), verbose=False)
