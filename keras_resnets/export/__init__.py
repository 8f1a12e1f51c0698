"""Export to other runtimes: every artifact carries the proof that it computes what the model computes.

* `export(model, path, format="saved_model" | "tflite" | "onnx", **options) -> ExportReport`
* `verify(path) -> ExportReport`: the proof again, later or elsewhere
* `run_artifact(path, inputs, batch_size=1) -> (outputs, milliseconds per image)`
* `read_metadata(path) -> dict`: what a TFLite file says about its classes and its images
"""

from keras_resnets.export.base import ExportError
from keras_resnets.export.pipeline import export
from keras_resnets.export.report import ExportReport
from keras_resnets.export.runtimes import ArtifactError, run_artifact
from keras_resnets.export.tflite_metadata import read_metadata
from keras_resnets.export.verification import verify

__all__ = ["ArtifactError", "ExportError", "ExportReport", "export", "read_metadata", "run_artifact", "verify"]
