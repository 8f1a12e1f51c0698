"""One file per family: blocks, builder, table of variants, PyTorch names, public builder functions."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

BUILDERS: dict[str, Callable[..., Any]] = {}
for _module in pkgutil.iter_modules(__path__):
    BUILDERS.update(importlib.import_module(f"{__name__}.{_module.name}").BUILDERS)
