"""Commands about networks: list, info, predict."""

import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.cli.output import percent, print_json, print_table
from keras_resnets.preprocessing import decode_predictions, expected_input, load_image, preprocess_input
from keras_resnets.registry import create_model, find, list_models, model_info


def show_networks(options: argparse.Namespace) -> None:
    names = list_models(options.pattern, options.family, options.pretrained)
    if not names:
        raise ValueError(f"no network called {options.pattern!r} is among those asked for")
    infos = [model_info(name) for name in names]
    if options.json:
        return print_json([dataclasses.asdict(info) for info in infos])
    rows = []
    for info in infos:
        weights = ", ".join(list(info.weights)[:2]) + (" …" if len(info.weights) > 2 else "")
        rows.append((info.name, info.family, f"{info.params / 1e6:.2f}", f"{info.gmacs:.2f}", info.input_size, weights))
    columns = ("name", "family", "params (M)", "GMACs", "input", "weights")
    print_table(columns, rows, numbers=("params (M)", "GMACs", "input"))


def show_network(options: argparse.Namespace) -> None:
    info = model_info(options.name)
    if options.json:
        return print_json(dataclasses.asdict(info))
    facts = [
        ("name", info.name),
        ("family", info.family),
        ("builder", f"keras_resnets.{info.builder}"),
        ("paper", info.paper),
        ("parameters", f"{info.params:,}"),
        ("GMACs", f"{info.gmacs:.3f}"),
        ("CIO", f"{info.cio / 1e6:.2f} M"),
        ("MACs per CIO", f"{info.moc:.0f}"),
        ("input", f"{info.input_size} x {info.input_size} x 3"),
    ]
    if not info.weights:
        facts.append(("weights", "none published"))
    print_table(("", ""), facts)
    if info.weights:
        columns = ("weights", "top-1", "top-5", "input", "classes", "licence", "source")
        rows = [
            (w.tag, percent(w.top1), percent(w.top5), w.input_size, w.classes, w.licence, w.source)
            for w in info.weights.values()
        ]
        print_table(columns, rows, numbers=("top-1", "top-5", "input", "classes"))


def predict(options: argparse.Namespace) -> None:
    network = open_network(options.model, options.weights)
    if not isinstance(network, Network):
        raise ValueError(f"model {options.model!r} is not a network of this package: its preprocessing is unknown")
    entry = expected_input(network)
    images = np.stack([load_image(path, entry) for path in options.images])
    probabilities = network.predict(preprocess_input(images, network), verbose=0)
    top = min(5, probabilities.shape[-1]) if options.top is None else options.top
    predictions = decode_predictions(probabilities, top, known_labels(network))
    if options.json:
        keys = ("synset", "label", "score")
        return print_json([
            {"image": path, "predictions": [dict(zip(keys, best, strict=True)) for best in ranking]}
            for path, ranking in zip(options.images, predictions, strict=True)
        ])  # fmt: skip
    rows = [
        (path if place == 0 else "", label, _bar(score), f"{score:.1%}", synset)
        for path, ranking in zip(options.images, predictions, strict=True)
        for place, (synset, label, score) in enumerate(ranking)
    ]
    print_table(("image", "class", "", "score", "synset"), rows, numbers=("score",))


def _bar(score: float, cells: int = 20) -> str:
    """A bar of eighths of a cell: `score`, from 0 to 1, of the full length."""
    whole, eighths = divmod(round(score * cells * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def known_labels(network: Network) -> str | list[str]:
    """Names of the classes as far as they are known, else numbers."""
    classes = network.output_shape[-1]
    if network.weights_tag == "digits" and classes == 10:
        return "digits"
    return "imagenet" if classes == 1000 else [f"class {i}" for i in range(classes)]


def open_network(name: str, weights: str | None) -> keras.Model:
    """A network by name, with the weights asked for or its first, never random ones unasked; or a `.keras` file."""
    if name.endswith(".keras"):
        if weights is not None:
            raise ValueError(f"weights {weights!r} cannot be chosen for {name!r}, a file that has its own")
        if not Path(name).is_file():
            raise ValueError(f"model {name!r} is not a file")
        return keras.saving.load_model(name)
    name, _, tag = name.partition(":")
    if tag and weights is not None:
        raise ValueError(f"weights {weights!r} cannot be chosen beside the tag {tag!r}")
    weights = tag or weights
    if weights == "none":
        return create_model(name)
    entries = find(name).weights
    weights = weights or next(iter(entries), None)
    if weights is None:
        raise ValueError(
            f"{name!r} has no published weights: give --weights the path of a .safetensors or .weights.h5 file"
        )
    size = entries[weights].input_size if weights in entries else None
    return create_model(name, weights=weights, input_shape=(size, size, 3) if size else None)
