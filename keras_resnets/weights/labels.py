"""Names of the classes that published weights tell apart."""

import functools
import importlib.resources
import json

DIGITS = tuple("0123456789")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """`(synset, label)` of the 1000 ImageNet classes in the order of a classifier's outputs: `("n01440764", "tench")` first."""
    text = (importlib.resources.files("keras_resnets") / "data" / "imagenet1k_classes.json").read_text("utf-8")
    return tuple((synset, label) for synset, label, _ in json.loads(text))


def class_names(labels: str) -> tuple[tuple[str, str], ...] | None:
    """`(synset, label)` of each class of a named set, "imagenet" or "digits"; None if there is no such set.

    Digits have no synset: theirs is empty.
    """
    if labels == "imagenet":
        return imagenet_classes()
    return tuple(("", digit) for digit in DIGITS) if labels == "digits" else None
