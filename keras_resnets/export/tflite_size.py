"""The same network for images of another size."""

from typing import Any

import keras

from keras_resnets.registry import find


def resized(model: keras.Model, input_size: int | tuple[int, int]) -> keras.Model:
    """A copy of `model` with its weights and an input of `input_size` pixels, a side or (height, width).

    Raises:
        ValueError: `input_size` is not allowed or too small, or the weights of `model` are made for its own size, as those of a
            dense layer are that sees every pixel.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4:
        raise ValueError(f"input_size is for models that take (batch, height, width, channels), not {shape}")
    if shape[1:3] == (height, width):
        return model
    variant = getattr(model, "variant", None)
    smallest = find(variant).spec.smallest_input if variant else 1
    if min(height, width) < smallest:
        raise ValueError(f"input_size must be at least {smallest} pixels for {variant}, not {input_size!r}")
    try:
        copy = type(model).from_config(_with_input(model.get_config(), (height, width)))
        copy.set_weights(model.get_weights())
    except Exception as error:  # layers raise what they like on shapes that they are not made for
        raise ValueError(
            f"input_size={input_size!r}: the model cannot take other images than {shape[1:3]}: {error}"
        ) from error
    sizes = [tuple(output.shape) for output in copy.outputs]
    if any(len(size) == 2 and size != tuple(output.shape) for size, output in zip(sizes, model.outputs, strict=True)):
        raise ValueError(f"input_size={input_size!r}: the model's outputs would change from "
                         f"{[tuple(output.shape) for output in model.outputs]} to {sizes}")  # fmt: skip
    return copy


def _with_input(value: Any, size: tuple[int, int]) -> Any:
    """A configuration with another size in every input layer; the shapes that layers were built for are left out."""
    if isinstance(value, dict):
        edited = {key: _with_input(item, size) for key, item in value.items() if key != "build_config"}
        if value.get("class_name") == "InputLayer":
            batch, _, _, channels = value["config"]["batch_shape"]
            edited["config"] = {**edited["config"], "batch_shape": (batch, *size, channels)}
        return edited
    return type(value)(_with_input(item, size) for item in value) if isinstance(value, (list, tuple)) else value
