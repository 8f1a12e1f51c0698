"""Post-training quantisation for TFLite: what there is to choose from, the two quantisers, and the choice between them.

"converter" is the quantiser inside TensorFlow's TFLiteConverter, "litert" the package `litert-quantizer` that is to take its
place. Neither is the more accurate one for every network: both are tried and measured on real images.
"""

import contextlib
import dataclasses
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.export.base import ExportError
from keras_resnets.export.runtimes import run_artifact

QUANTIZERS = {"converter": "tensorflow", "litert": "litert_quantizer"}  # and the package that each needs


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What a value of `quantization` means.

    Attributes:
        tolerance, min_agreement: default limits of the proof.
        interfaces: data types that input and output can have, the default first.
        integer: everything is computed in integers, with ranges that come from calibration.
        quantizers: those that can do it.
    """

    tolerance: float | None
    min_agreement: float
    interfaces: tuple[str, ...] = ("float32",)
    integer: bool = False
    quantizers: tuple[str, ...] = ()


SCHEMES: dict[str | None, Scheme] = {
    None: Scheme(1e-4, 0.0),
    "float16": Scheme(1e-2, 0.0),
    "dynamic": Scheme(None, 0.95, quantizers=tuple(QUANTIZERS)),
    "int8": Scheme(None, 0.95, ("int8", "uint8", "float32"), True, tuple(QUANTIZERS)),
    "int16x8": Scheme(0.1, 0.98, ("float32", "int16"), True, tuple(QUANTIZERS)),
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """How far a quantised file is from the Keras model on real images.

    Attributes:
        top1_agreement: fraction of images with the same largest output; None unless the output is `(batch, classes)`.
        mean_difference: mean absolute difference of the outputs, divided by their largest.
    """

    top1_agreement: float | None
    mean_difference: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: agreement first, then closeness."""
        return (self.top1_agreement or 0.0, -self.mean_difference)


Batches = Callable[[], Iterable[dict[str, np.ndarray]]]  # calibration images, by the name of the input


def installed(quantizer: str) -> bool:
    """Whether the package of a quantiser can be imported."""
    return importlib.util.find_spec(QUANTIZERS[quantizer]) is not None


def convert(folder: str, quantization: str | None, interface: str, batches: Batches | None = None) -> bytes:
    """The SavedModel in `folder` as TensorFlow's converter writes it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if SCHEMES[quantization].integer:
        eight, sixteen = (tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                          tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8)  # fmt: skip
        converter.target_spec.supported_ops = [sixteen if quantization == "int16x8" else eight]
        converter.representative_dataset = batches
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(interface)
    with warnings.catch_warnings():
        # The calibrator uses the interpreter that TensorFlow itself has deprecated.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        return _checked(converter.convert(), quantization)


def requantize(content: bytes, quantization: str, interface: str, batches: Batches) -> bytes:
    """A float32 file quantised by `litert-quantizer`.

    Ranges are the smallest and largest values over all batches, as the converter takes them: a moving average, this package's
    default, forgets all but the last images.
    """
    from litert_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from litert_quantizer.utils import qsv_utils

    every, ends = (
        qtyping.TFLOperationName.ALL_SUPPORTED,
        (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT),
    )
    recipe = recipe_manager.RecipeManager()
    if SCHEMES[quantization].integer:
        recipe.add_static_config(
            ".*", every, activation_num_bits=16 if quantization == "int16x8" else 8, weight_num_bits=8
        )
        for end in ends if interface == "float32" else ():
            recipe.add_quantization_config(".*", end, None, "no_quantize")
    else:
        recipe.add_dynamic_config(".*", every, num_bits=8)
    work = quantizer.Quantizer(content, recipe.get_quantization_recipe())
    # Progress bars are drawn on the standard error stream whatever one says.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`")
        ranges = None
        if work.need_calibration:
            calibration = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
            calibration.calibrate({"serving_default": list(batches())}, recipe)
            ranges = calibration.get_model_qsvs()
        quantized = bytes(
            work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model
        )
    if interface == "uint8":
        from keras_resnets.export import tflite_flatbuffer as flatbuffer

        model = flatbuffer.load(quantized)
        flatbuffer.with_unsigned_ends(model)
        quantized = flatbuffer.dump(model)
    return _checked(quantized, quantization)


def _checked(content: bytes, quantization: str | None) -> bytes:
    """`content`; ExportError where an integer scheme has left operators in floating point."""
    from keras_resnets.export import tflite_flatbuffer as flatbuffer

    left = flatbuffer.float_operators(flatbuffer.load(content)) if SCHEMES[quantization].integer else []
    if left:
        raise ExportError(f"operators are left in float32: {', '.join(left)}")
    return content


def most_accurate(candidates: Mapping[str, Callable[[], bytes]], images: np.ndarray, reference: Mapping[str, np.ndarray],
                  folder: Path) -> tuple[str, bytes, dict[str, Any]]:  # fmt: skip
    """Makes every candidate and runs it in its own runtime; the most accurate one is kept.

    Args:
        candidates: by the name of their quantiser.
        images: real ones, as the model takes them.
        reference: the model's outputs for them, by name.
        folder: for temporary files.

    Returns:
        Name and content of the file to keep, and for each name its `Figures` as a dictionary, or why there is none.

    Raises:
        ExportError: none of them can be made and run.
    """
    made: dict[str, tuple[Figures, bytes]] = {}
    tried: dict[str, Any] = {}
    for name, make in candidates.items():
        try:
            content = make()
            file = folder / f"{name}.tflite"
            file.write_bytes(content)
            outputs, _ = run_artifact(file, images)
            named = outputs if isinstance(outputs, dict) else dict.fromkeys(reference, outputs)
            made[name] = _figures(named, reference), content
            tried[name] = dataclasses.asdict(made[name][0])
        except OSError:
            raise
        except Exception as error:  # quantisers raise what they like
            tried[name] = f"failed: {error}"
    if not made:
        raise ExportError("; ".join(f"quantizer {name!r} {reason}" for name, reason in tried.items()))
    best = max(made, key=lambda name: made[name][0].rank)
    return best, made[best][1], tried


def _figures(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Figures:
    (first, *others) = reference
    differences = [float(np.mean(np.abs(outputs[name].astype("float64") - expected)) / max(np.abs(expected).max(), 1e-30))
                   for name, expected in reference.items()]  # fmt: skip
    if not np.isfinite(differences).all():
        raise ExportError("its outputs are not finite")
    agreement = None
    if not others and reference[first].ndim == 2:
        agreement = float(np.mean(outputs[first].argmax(-1) == reference[first].argmax(-1)))
    return Figures(agreement, max(differences))
