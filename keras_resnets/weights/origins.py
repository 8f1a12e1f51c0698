"""Spellings of parameter names that differ from the reference's, by origin of the checkpoint."""

import re
from typing import Any


def canonical_names(state: dict[str, Any], network: str | None) -> dict[str, Any]:
    """`state`, a state dictionary of any origin, under the names of the reference that the family's rules know.

    Torchvision's older DenseNet files split the last part of a name: `denselayer1.norm.1` for `denselayer1.norm1`.
    """
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): array for name, array in state.items()}
