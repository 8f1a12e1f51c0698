"""What the images of a TFLite file are to be: what the file itself says, or the weights it was made of."""

import dataclasses
from pathlib import Path

from keras_resnets.export.tflite_metadata import read_metadata
from keras_resnets.preprocessing import expected_input
from keras_resnets.registry import WeightsEntry


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What stands before and after a file or network.

    Attributes:
        entry: size, crop, interpolation, mean and standard deviation of its images.
        labels: names of its outputs; None if they are not known.
    """

    entry: WeightsEntry
    labels: tuple[str, ...] | None


def preparation(path: Path, model: str | None, input_shape: tuple[int, ...]) -> Preparation:
    """What a file's images are to be, and its outputs are called.

    Args:
        path: of the file.
        model: "NETWORK" or "NETWORK:TAG", whose preprocessing to apply in place of the file's.
        input_shape: of the file, `(batch, height, width, channels)`.

    Raises:
        ValueError: there is no such network, the file says nothing, or its images are not square and of three channels.
    """
    _, height, width, channels = input_shape
    if height != width or channels != 3:
        raise ValueError(
            f"{str(path)!r} takes images {input_shape[1:]}: only square ones of three channels can be prepared"
        )
    if model is not None:
        name, _, tag = model.partition(":")
        return Preparation(dataclasses.replace(expected_input(name, tag or None), input_size=height), None)
    try:
        facts = read_metadata(path)
    except ValueError as error:
        raise ValueError(f"{error}: say with --model whose preprocessing its images need") from error
    if facts["mean"] is None:
        raise ValueError(
            f"{str(path)!r} does not say how its images are normalised: say with --model whose preprocessing they need"
        )
    mean, std = (tuple(value / 255 for value in facts[key]) for key in ("mean", "std"))
    entry = WeightsEntry(facts["weights"] or "none", "", len(facts["labels"] or ()), height, facts["crop"] or 1.0,
                         facts["interpolation"] or "bilinear", mean, std, None, None, "")  # fmt: skip
    return Preparation(entry, None if facts["labels"] is None else tuple(facts["labels"]))
