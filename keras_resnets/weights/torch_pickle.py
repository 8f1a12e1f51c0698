"""Pickles as data: a decoder of what `torch.save` writes that runs nothing.

A pickle is a program that may call any function. Here the instructions that build plain data are followed, the few names that
stand for tensors are known, and every other name is refused before anything comes of it.
"""

import dataclasses
import mmap
import pickletools
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np


class RefusedError(ValueError):
    """A pickle asks for something else than tensors and plain data."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` values in a file, from `start` on of what is stored under `key`."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """How a tensor lies in its storage; `offset` and `strides` in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Function:
    """What a pickle may call."""

    call: Callable[..., Any]


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or not _are_counts(offset, *shape, *strides) or len(shape) != len(strides):
        raise ValueError("it describes a tensor that cannot be")
    return Tensor(storage, offset, shape, strides)


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _filled(target: Any, items: Iterable[Any]) -> Any:
    """`target` with keys and values that alternate in `items`: those with text keys, if it is a dictionary."""
    if isinstance(target, dict):
        keys = iter(items)
        target.update((key, value) for key, value in zip(keys, keys, strict=True) if isinstance(key, str))
    return target


def _ordered(pairs: Iterable[Any] = ()) -> dict[str, Any]:
    return _filled({}, [part for key, value in pairs for part in (key, value)])


_NOTHING = _Function(lambda *_: None)
_KNOWN: dict[str, np.dtype | _Function] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
    "collections OrderedDict": _Function(_ordered),
    "torch._utils _rebuild_tensor": _Function(_tensor),
    "torch._utils _rebuild_tensor_v2": _Function(_tensor),
    "torch._utils _rebuild_parameter": _Function(lambda tensor, *_: tensor),
    "torch Size": _Function(tuple),
    # What training programs keep beside the tensors: becomes None.
    "argparse Namespace": _NOTHING,
    "collections Counter": _NOTHING,
    "numpy dtype": _NOTHING,
    "numpy.core.multiarray scalar": _NOTHING,
    "numpy._core.multiarray scalar": _NOTHING,
    "_codecs encode": _NOTHING,
    "torch device": _NOTHING,
}

# Instructions that push what stands beside them.
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
# Instructions that push something new.
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


class Pickle:
    """Decodes a pickle into plain data, with a `Tensor` for each tensor. Of dictionaries, entries with text keys are kept.

    Attributes:
        storages: each storage that the pickle refers to, whole, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: bytes | mmap.mmap) -> Any:
        """What the pickle at the position of `stream` describes; the position is then behind it.

        Raises:
            RefusedError: it asks for something else than tensors and plain data.
            ValueError, TypeError, LookupError: it is not a pickle, is cut off, or not of PyTorch's making.
        """
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _NEW:
                self._stack.append(_NEW[opcode.name]())
            else:
                self._follow(opcode.name, argument)
        return self._stack.pop()

    def _follow(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        match instruction:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(instruction[-1]))))
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "LIST":
                stack.append(self._pop_to_mark())
            case "DICT":
                stack.append(_filled({}, self._pop_to_mark()))
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if instruction == "SETITEM" else self._pop_to_mark()
                _filled(stack[-1], items)
            case "APPEND" | "APPENDS":
                items = self._pop(1) if instruction == "APPEND" else self._pop_to_mark()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "GLOBAL" | "INST":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                stack.append(_known(" ".join(self._pop(2))))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._pop(2)
                if not isinstance(function, _Function):
                    raise ValueError("its pickle calls something that is not a function")
                stack.append(function.call(*arguments))
            case "BUILD":  # sets attributes, which nothing of ours has
                self._pop(1)
            case "BINPERSID":
                stack.append(self._storage(*self._pop(1)[0]))
            case _:
                raise ValueError(f"its pickle has the instruction {instruction}")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("its pickle takes more than it made")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _storage(self, kind: str, dtype: Any, key: Any, device: Any, count: Any, view: Any = None) -> Storage:
        """What a reference to a storage stands for; `view` is the key, start and length of a part of it."""
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _are_counts(count):
            raise ValueError("its pickle refers to something else than a storage")
        whole = Storage(key, dtype, count)
        if self.storages.setdefault(key, whole) != whole:
            raise ValueError(f"storage {key} is described in two ways")
        if view is None:
            return whole
        _, start, length = view
        if not _are_counts(start, length):
            raise ValueError(f"storage {key} has a part that cannot be")
        return Storage(key, dtype, length, start)


def _known(name: str) -> np.dtype | _Function:
    """What a module and a name in it, with a space between, stand for."""
    if name not in _KNOWN:
        raise RefusedError(f"its pickle asks for {name.replace(' ', '.')}")
    return _KNOWN[name]
