"""Export to other runtimes: every artifact carries the proof that it computes what the model computes.

* `export(model, path, format="saved_model" | "tflite" | "onnx", **options) -> ExportReport`
* `run_artifact(path, inputs, batch_size=1) -> (outputs, milliseconds per image)`
"""

from keras_resnets.export.base import ExportError
from keras_resnets.export.pipeline import export
from keras_resnets.export.report import ExportReport
from keras_resnets.export.runtimes import ArtifactError, run_artifact

__all__ = ["ArtifactError", "ExportError", "ExportReport", "export", "run_artifact"]
