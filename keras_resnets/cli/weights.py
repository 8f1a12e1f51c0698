"""Commands about weights: weights list, download, convert."""

import argparse
import dataclasses
import os
from pathlib import Path

from keras_resnets.cli.output import percent, print_json, print_table
from keras_resnets.registry import create_model, find, list_models, model_info
from keras_resnets.weights import checkpoint_classes, download_weights, is_here, published


def show_weights(options: argparse.Namespace) -> None:
    infos = [model_info(name) for name in list_models(options.pattern, pretrained=True)]
    if not infos:
        raise ValueError(f"no network called {options.pattern!r} has published weights")
    entries = [(info, entry) for info in infos for entry in info.weights.values()]
    if options.json:
        return print_json([{"network": info.name, **dataclasses.asdict(entry)} for info, entry in entries])
    columns = ("network", "weights", "top-1", "top-5", "input", "MB", "licence", "here")
    rows = [
        (info.name, entry.tag, percent(entry.top1), percent(entry.top5), entry.input_size, f"{info.params * 4e-6:.0f}",
         entry.licence, "yes" if is_here(info.name, entry) else "")
        for info, entry in entries
    ]  # fmt: skip
    print_table(columns, rows, numbers=("top-1", "top-5", "input", "MB"))


def download(options: argparse.Namespace) -> None:
    wanted = []
    for name, _, tag in (given.partition(":") for given in options.weights):
        tag = tag or next(iter(find(name).weights), "")
        wanted.append((name, published(find(name), tag)))
    files = [(name, entry, download_weights(name, entry)) for name, entry in wanted]
    if options.json:
        return print_json([{"network": name, "weights": entry.tag, "file": path} for name, entry, path in files])
    rows = [(name, entry.tag, entry.licence, f"{path.stat().st_size / 1e6:.1f}", path) for name, entry, path in files]
    print_table(("network", "weights", "licence", "MB", "file"), rows, numbers=("MB",))


def convert(options: argparse.Namespace) -> None:
    path = Path(options.path)
    if path.suffix != ".keras":
        raise ValueError(f"path {str(path)!r} must end in .keras")
    if path.exists() and not options.overwrite:
        raise ValueError(f"path {str(path)!r} exists: give --overwrite to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"path {str(path)!r} is in a folder that does not exist")
    classes = checkpoint_classes(options.name, options.checkpoint)
    network = create_model(options.name, Path(options.checkpoint), include_top=classes is not None, classes=classes)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        network.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    facts = {"written": str(path), "network": options.name, "classes": classes, "size_bytes": path.stat().st_size}
    if options.json:
        return print_json(facts)
    print_table(("", ""), [
        ("written", path),
        ("network", f"{options.name}, " + ("no classifier" if classes is None else f"{classes} classes")),
        ("size", f"{path.stat().st_size / 1e6:.2f} MB"),
    ])  # fmt: skip
