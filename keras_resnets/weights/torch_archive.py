"""PyTorch's `.pth` files as NumPy arrays, without PyTorch.

Such a file is a pickle and raw storages: since PyTorch 1.6 entries of a zip archive, before that one stream.
"""

import mmap
import os
import pickle
import zipfile
from typing import Any

import numpy as np

from keras_resnets.weights.torch_pickle import Pickle, RefusedError, Storage, Tensor

# The first two pickles of the stream format.
_MAGIC, _STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
# Where programs keep the state dictionary among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")


def read_torch_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint by name. Nothing that the file may ask for is run.

    The state dictionary is the saved object itself or lies in it under a usual name ("state_dict", "model" …). A prefix
    "module." of all names, of models trained on several devices, is taken off.

    Args:
        path: of what `torch.save` wrote, in either of its formats.

    Returns:
        Arrays in the order of the file, read-only: views of the file's pages, without memory of their own.

    Raises:
        ValueError: `path` is not a file, or not a whole checkpoint, or asks for something else than tensors and plain data,
            which the message names.
    """
    source = f"source {os.fspath(path)!r}"
    if not os.path.isfile(path):
        raise ValueError(f"{source} is not a file")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        saved, storages = (_read_zip if pages[:4] == b"PK\3\4" else _read_stream)(pages)
        tensors = _without_prefix(_named_tensors(saved))
        if not tensors:
            raise ValueError("it holds no tensors by name")
        return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except RefusedError as error:
        raise ValueError(f"{source} is refused: {error}, not just for tensors and plain data") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, NotImplementedError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise ValueError(f"{source} is not a whole PyTorch checkpoint: {error}") from error


def _named_tensors(saved: Any, depth: int = 0) -> dict[str, Tensor]:
    """The state dictionary that is `saved` or lies in it."""
    if not isinstance(saved, dict) or depth > 2:
        return {}
    for wrapper in _WRAPPERS:
        if inner := _named_tensors(saved.get(wrapper), depth + 1):
            return inner
    return {name: value for name, value in saved.items() if isinstance(value, Tensor)}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _array(tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    if 0 in tensor.shape:
        return np.empty(tensor.shape, storage.dtype)
    first = tensor.storage.start + tensor.offset
    extents = list(zip(tensor.shape, tensor.strides, strict=True))
    if first + sum((length - 1) * stride for length, stride in extents) >= storage.size:
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    steps = [stride * storage.itemsize if length > 1 else 0 for length, stride in extents]
    return np.lib.stride_tricks.as_strided(storage[first:], tensor.shape, steps, writeable=False)


def _read_zip(pages: mmap.mmap) -> tuple[Any, dict[str, np.ndarray]]:
    """The saved object of a zip archive, and the storages that it refers to by key."""
    with zipfile.ZipFile(pages) as archive:  # type: ignore[call-overload]
        entries = {entry.filename: entry for entry in archive.infolist()}
    name = next((name for name in entries if name.endswith("/data.pkl")), None)
    if name is None:
        raise ValueError("the archive has no data.pkl")
    folder = name.removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    _require_little_endian(order is None or pages[slice(*_extent(order, pages))] == b"little")
    decoder = Pickle()
    saved = decoder.read(pages[slice(*_extent(entries[name], pages))])
    storages = {}
    for key, storage in decoder.storages.items():
        entry = entries.get(f"{folder}data/{key}")
        if entry is None:
            raise ValueError(f"storage {key} is missing")
        storages[key] = _values(pages, storage, *_extent(entry, pages))
    return saved, storages


def _extent(entry: zipfile.ZipInfo, pages: mmap.mmap) -> tuple[int, int]:
    """Where the bytes of an entry begin and end in the file: after a header that ends with a name and padding."""
    header = pages[entry.header_offset : entry.header_offset + 30]
    if entry.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\3\4":
        raise ValueError(f"entry {entry.filename!r} of the archive is damaged or compressed")
    start = entry.header_offset + 30 + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    return start, start + entry.file_size


def _read_stream(pages: mmap.mmap) -> tuple[Any, dict[str, np.ndarray]]:
    """The saved object of the older format, and the storages that it refers to by key.

    There are five pickles: two numbers, a description of the machine, the object, the keys of the storages. Each storage
    follows after the number of its elements.
    """
    if pages[:1] != pickle.PROTO or [Pickle().read(pages), Pickle().read(pages)] != [_MAGIC, _STREAM_VERSION]:
        raise ValueError("it is neither an archive nor a stream of PyTorch's")
    _require_little_endian(Pickle().read(pages)["little_endian"])
    decoder, storages = Pickle(), {}
    saved, keys = decoder.read(pages), Pickle().read(pages)
    if sorted(keys) != sorted(decoder.storages):
        raise ValueError("its tensors and its storages do not belong together")
    for storage in map(decoder.storages.__getitem__, keys):
        if (count := int.from_bytes(pages.read(8), "little")) != storage.count:
            raise ValueError(f"storage {storage.key} has {count} elements, not {storage.count}")
        start = pages.tell()
        end = start + count * storage.dtype.itemsize
        storages[storage.key] = _values(pages, storage, start, end)
        pages.seek(end)
    return saved, storages


def _values(pages: mmap.mmap, storage: Storage, start: int, end: int) -> np.ndarray:
    """The file's bytes from `start` to `end` as what `storage` says that they are."""
    if end > len(pages) or end - start != storage.count * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} is cut off")
    if not storage.count:
        return np.empty(0, storage.dtype)
    return np.frombuffer(pages, storage.dtype, storage.count, start)


def _require_little_endian(holds: Any) -> None:
    if not holds:
        raise ValueError("it was written on a big-endian machine")
