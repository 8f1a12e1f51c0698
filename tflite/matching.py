"""Which operator of one TFLite file is which of another that was made of the same network."""

import difflib
from collections.abc import Sequence

from tflite.graph import CASTS, Operator

SUFFIXES = ("_quantized", "_quant", "_dequant", "_requant")  # what quantisers append to names


def matched(reference: Sequence[Operator], other: Sequence[Operator]) -> dict[int, Operator]:
    """The operators of `other` by the place of those of `reference` that they stand for.

    Operators of the same kind and output shape are matched by the name of their output where that is kept, and between
    those by their order. `QUANTIZE` and `DEQUANTIZE` stand for nothing.
    """
    ours, theirs = ([op for op in operators if op.kind not in CASTS] for operators in (reference, other))
    named, others = _unique(ours), _unique(theirs)
    pairs = {op.place: others[key] for key, op in named.items() if key in others}
    taken = {op.place for op in pairs.values()}
    left, right = [op for op in ours if op.place not in pairs], [op for op in theirs if op.place not in taken]
    keys, other_keys = ([(op.kind, op.shape) for op in ops] for ops in (left, right))
    matcher = difflib.SequenceMatcher(None, keys, other_keys, autojunk=False)
    for start, other_start, length in matcher.get_matching_blocks():
        for step in range(length):
            pairs[left[start + step].place] = right[other_start + step]
    return pairs


def _unique(operators: Sequence[Operator]) -> dict[tuple[str, str, tuple[int, ...]], Operator]:
    """Operators by name, kind and shape, but for those that share these."""
    found: dict[tuple[str, str, tuple[int, ...]], list[Operator]] = {}
    for op in operators:
        found.setdefault((_plain(op.name), op.kind, op.shape), []).append(op)
    return {key: ops[0] for key, ops in found.items() if len(ops) == 1}


def _plain(name: str) -> str:
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def titles(operators: Sequence[Operator]) -> list[str]:
    """Short names of layers for people: the path that the converter put first, without what all have in common."""
    paths = [op.name.split(";")[0].split("/") for op in operators]
    common = 0
    while len(paths) > 2 and all(len(path) > common + 1 and path[common] == paths[0][common] for path in paths[:-1]):
        common += 1
    return ["/".join(path[common if len(path) > common else 0 :]) for path in paths]
