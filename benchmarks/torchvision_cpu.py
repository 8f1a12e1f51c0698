"""Import this before timm: it makes torchvision importable where only its build for CUDA can be had, beside a PyTorch for CPUs.

That build declares its compiled operators in a library that does not load without CUDA, and the Python part, all that timm needs,
then fails on their names. They are declared here, without implementations.
"""

import importlib.util
import pathlib
import re
import sys


def declare_operators() -> None:
    """Names the operators to which torchvision attaches the shapes of their results."""
    import torch

    found = importlib.util.find_spec("torchvision")
    assert found is not None and found.origin is not None
    text = pathlib.Path(found.origin).with_name("_meta_registrations.py").read_text("utf-8")
    names = re.findall(r'register_fake\("torchvision::(\w+)"', text) + re.findall(r'@register_meta\("(\w+)"', text)
    library = torch.library.Library("torchvision", "DEF")
    for name in dict.fromkeys(names):
        library.define(f"{name}(Tensor x) -> Tensor")
    sys.modules[__name__].__dict__["_library"] = library  # the declarations last as long as this object


try:
    import torchvision
except RuntimeError:  # "operator torchvision::nms does not exist"
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    declare_operators()
    import torchvision  # noqa: F401
