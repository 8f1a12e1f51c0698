"""Metadata inside TFLite files, as the mobile libraries read them: class names, normalisation, input size.

The standard form ("TensorFlow Lite Metadata", schema 1.0.0): a flatbuffer with the identifier M001 in the file's buffer
TFLITE_METADATA, and associated files in a ZIP archive behind the model. Table and field numbers are those of the public
metadata_schema.fbs. What that schema has no place for is in the associated file `preprocessing.json`.
"""

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.export.description import Description

LABELS_FILE, PREPROCESSING_FILE = "labels.txt", "preprocessing.json"
PARSER_VERSION = "1.0.0"  # of the schema: the first that has all fields used here
METADATA_BUFFER = "TFLITE_METADATA"
Field = tuple[str, int, Any]  # kind, number, value
_DESCRIPTIONS, _AXIS_LABELS = 1, 2  # AssociatedFileType
_RGB, _GRAYSCALE = 1, 2  # ColorSpaceType
_FEATURE, _IMAGE, _NORMALIZATION = 1, 2, 1  # members of the unions ContentProperties and ProcessUnitOptions


def metadata_buffer(description: Description, outputs: Sequence[str]) -> bytes:
    """The flatbuffer that describes a model with the input `image` and `outputs`."""
    writer = _Writer()
    preprocessing, shape = description.preprocessing, description.input_shape
    image: list[Field] = [("string", 0, "image"), ("string", 1, _input_text(description))]
    if len(shape) == 3 and shape[2] in (1, 3):
        size = writer.table([("uint", 0, shape[1]), ("uint", 1, shape[0])])
        properties = writer.table([("byte", 0, _RGB if shape[2] == 3 else _GRAYSCALE), ("offset", 1, size)])
        image.append(("offset", 3, writer.table([("ubyte", 0, _IMAGE), ("offset", 1, properties)])))
    if preprocessing is not None:
        mean, std = (
            writer.floats([255 * value for value in values]) for values in (preprocessing.mean, preprocessing.std)
        )
        options = writer.table([("offset", 0, mean), ("offset", 1, std)])
        unit = writer.table([("ubyte", 0, _NORMALIZATION), ("offset", 1, options)])
        low, high = (
            [(end - m) / s for m, s in zip(preprocessing.mean, preprocessing.std, strict=True)] for end in (0, 1)
        )
        stats = writer.table([("offset", 0, writer.floats(high)), ("offset", 1, writer.floats(low))])
        image += [("offset", 4, writer.offsets([unit])), ("offset", 5, stats)]
    feature = writer.table([("ubyte", 0, _FEATURE), ("offset", 1, writer.table([]))])
    results: list[list[Field]] = [[("string", 0, name), ("offset", 3, feature)] for name in outputs]
    if description.labels is not None:
        file = writer.file(LABELS_FILE, "Names of the classes, one a line, in the order of the output.", _AXIS_LABELS)
        results[0].append(("offset", 6, writer.offsets([file])))
    graph = writer.table([("offset", 2, writer.offsets([writer.table(image)])),
                          ("offset", 3, writer.offsets([writer.table(fields) for fields in results]))])  # fmt: skip
    extra = writer.file(
        PREPROCESSING_FILE, "How an image file becomes the input, and what network this is.", _DESCRIPTIONS
    )
    fields = [("string", 0, description.network), ("string", 1, _text(description)), ("string", 2, description.weights_tag),
              ("offset", 3, writer.offsets([graph])), ("string", 5, description.licence),
              ("offset", 6, writer.offsets([extra])), ("string", 7, PARSER_VERSION)]  # fmt: skip
    return writer.finish(writer.table(fields))


def associated_files(description: Description) -> dict[str, str]:
    """Contents of the files in the archive, by name."""
    found = description.preprocessing
    facts: dict[str, Any] = {"network": description.network, "weights": description.weights_tag,
                             "licence": description.licence}  # fmt: skip
    if len(description.input_shape) == 3:
        facts["input_size"] = list(description.input_shape[:2])
    if found is not None:
        facts |= {"colour": "RGB" if description.input_shape[2:] == (3,) else None, "resize": "short side", "crop": found.crop,
                  "interpolation": found.interpolation, "mean": found.mean, "std": found.std}  # fmt: skip
    files = {PREPROCESSING_FILE: json.dumps(facts)}
    if description.labels is not None:
        files[LABELS_FILE] = "\n".join(description.labels) + "\n"
    return files


def with_files(model: bytes, files: dict[str, str]) -> bytes:
    """`model` followed by a ZIP archive, uncompressed and without dates: the mobile readers know no more."""
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())
    return content.getvalue()


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What a TFLite file says about itself.

    Returns:
        A dictionary with, where the file has them and None where it has not: `network`, `weights`, `licence`, `description`;
        `labels`, a list of names; `mean` and `std` per channel of pixels from 0 to 255, so that the input is
        `(pixel - mean) / std`; `colour` ("RGB" or "GRAYSCALE"), `input_size` (height, width), `crop` and `interpolation`;
        and `files`, the names of the associated files.

    Raises:
        ValueError: it is not a TFLite file, or has no metadata.
    """
    try:
        data = Path(path).read_bytes()
        root = _Reader.root(data, b"TFL3")
        buffers = {entry.text(0): entry.number(1, 4) for entry in root.tables(6)}
        if METADATA_BUFFER not in buffers:
            raise ValueError("it has no metadata")
        metadata = _Reader.root(root.tables(4)[buffers[METADATA_BUFFER]].bytes(0), b"M001")
        return _facts(metadata, _archive(data))
    except (OSError, ValueError, IndexError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"metadata of {os.fspath(path)!r} cannot be read: {error}") from error


def _facts(metadata: "_Reader", files: dict[str, str]) -> dict[str, Any]:
    (graph, *_) = metadata.tables(3)
    image, output = graph.tables(2)[0], graph.tables(3)[0]
    content, units = image.table(3), image.tables(4)
    properties = content.table(1) if content and content.number(0, 1) == _IMAGE else None
    normalization = [unit.table(1) for unit in units if unit.number(0, 1) == _NORMALIZATION]
    mean, std = (
        (normalization[0].floats(0), normalization[0].floats(1)) if normalization and normalization[0] else (None, None)
    )
    size = properties.table(1) if properties else None
    labels = [file.text(0) for file in output.tables(6) if file.number(2, 1) == _AXIS_LABELS]
    more = json.loads(files.get(PREPROCESSING_FILE, "{}"))
    return {
        "network": metadata.text(0),
        "weights": metadata.text(2),
        "licence": metadata.text(5),
        "description": metadata.text(1),
        "labels": files[labels[0]].splitlines() if labels and labels[0] else None,
        "mean": mean,
        "std": std,
        "colour": {_RGB: "RGB", _GRAYSCALE: "GRAYSCALE"}.get(properties.number(0, 1)) if properties else None,
        "input_size": (size.number(1, 4), size.number(0, 4)) if size else None,
        "crop": more.get("crop"),
        "interpolation": more.get("interpolation"),
        "files": sorted(files),
    }


def _archive(data: bytes) -> dict[str, str]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _text(description: Description) -> str:
    weights = f" with the weights {description.weights_tag!r}" if description.weights_tag else ""
    return f"{description.network}{weights}, exported by keras_resnets."


def _input_text(description: Description) -> str:
    found = description.preprocessing
    if found is None:
        return "Input as the model takes it."
    return (f"RGB image: resized ({found.interpolation}) so that {found.crop:g} of its short side is the input's, the centre "
            "cut out, then (pixel - mean) / std with pixels from 0 to 255.")  # fmt: skip


class _Writer:
    """Writes tables whose fields are given by number: ("string" | "offset" | "byte" | "ubyte" | "uint", number, value)."""

    def __init__(self) -> None:
        import flatbuffers

        self.builder = flatbuffers.Builder(1024)

    def table(self, fields: Sequence[Field]) -> int:
        fields = [field for field in fields if field[2] is not None]
        ready = [("offset", number, self.builder.CreateSharedString(value)) if kind == "string" else (kind, number, value)
                 for kind, number, value in fields]  # fmt: skip
        self.builder.StartObject(1 + max((number for _, number, _ in ready), default=-1))
        write = {"offset": self.builder.PrependUOffsetTRelativeSlot, "byte": self.builder.PrependInt8Slot,
                 "ubyte": self.builder.PrependUint8Slot, "uint": self.builder.PrependUint32Slot}  # fmt: skip
        for kind, number, value in ready:
            write[kind](number, value, 0)
        return self.builder.EndObject()

    def floats(self, values: Sequence[float]) -> int:
        return self.builder.CreateNumpyVector(np.array(values, "<f4"))

    def offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def file(self, name: str, text: str, kind: int) -> int:
        return self.table([("string", 0, name), ("string", 1, text), ("byte", 2, kind)])

    def finish(self, root: int) -> bytes:
        self.builder.Finish(root, file_identifier=b"M001")
        return bytes(self.builder.Output())


@dataclasses.dataclass(frozen=True)
class _Reader:
    """One table of a flatbuffer, which begins at `start`; its fields by number. Absent ones are None, 0 or empty."""

    data: bytes
    start: int

    @classmethod
    def root(cls, data: bytes, identifier: bytes) -> "_Reader":
        if data[4:8] != identifier:
            raise ValueError(f"it does not bear the identifier {identifier.decode()}")
        return cls(data, _number(data, 0))

    def table(self, field: int) -> "_Reader | None":
        at = self._at(field)
        return _Reader(self.data, at + _number(self.data, at)) if at else None

    def tables(self, field: int) -> list["_Reader"]:
        places = [self._vector(field)[0] + 4 * i for i in range(self._vector(field)[1])]
        return [_Reader(self.data, place + _number(self.data, place)) for place in places]

    def text(self, field: int) -> str | None:
        return self.bytes(field).decode() if self._at(field) else None

    def number(self, field: int, size: int) -> int:
        return _number(self.data, self._at(field), size) if self._at(field) else 0

    def floats(self, field: int) -> list[float]:
        first, length = self._vector(field)
        return np.frombuffer(self.data, "<f4", length, first).tolist()

    def bytes(self, field: int) -> bytes:
        first, length = self._vector(field)
        return self.data[first : first + length]

    def _at(self, field: int) -> int:
        """Where the field is, 0 if it is absent: as the table's list of fields says, which lies before the table."""
        fields = self.start - _number(self.data, self.start, signed=True)
        entry = 4 + 2 * field
        offset = _number(self.data, fields + entry, 2) if entry < _number(self.data, fields, 2) else 0
        return self.start + offset if offset else 0

    def _vector(self, field: int) -> tuple[int, int]:
        """Where the elements begin, and how many there are."""
        at = self._at(field)
        if not at:
            return 0, 0
        place = at + _number(self.data, at)
        return place + 4, _number(self.data, place)


def _number(data: bytes, at: int, size: int = 4, signed: bool = False) -> int:
    found = data[at : at + size]
    if len(found) != size:
        raise ValueError("it is not whole")
    return int.from_bytes(found, "little", signed=signed)
