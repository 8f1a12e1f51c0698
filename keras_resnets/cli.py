"""The command `keras-resnets`: list, info, weights, download, convert, predict, export."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.preprocessing import decode_predictions, expected_input, load_image, preprocess_input
from keras_resnets.registry import create_model, find, list_models, model_info
from keras_resnets.weights import checkpoint_classes, download_weights, is_here, published


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers bad usage as the commands answer bad input: one line, exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code, 1 after a line that says what is wrong.

    `arguments` are the process's by default.
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except BrokenPipeError:  # `head` and its like have seen enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-resnets: error: {textwrap.shorten(str(error), 500, placeholder=' …')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells report an interrupt
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="keras-resnets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Any, description: str, among: Any = commands) -> argparse.ArgumentParser:
        added = among.add_parser(run.__name__.rpartition("_")[2], help=description, description=description)
        added.set_defaults(command=run)
        added.add_argument("--json", action="store_true", help="print JSON instead of tables")
        return added

    listing = command(_list, "Tabulate the networks.")
    listing.add_argument("pattern", nargs="?", default="*", help="names to show, such as 'resnext*'")
    listing.add_argument("--family", help="only that family")
    listing.add_argument("--pretrained", action="store_true", help="only networks with published weights")

    info = command(_info, "Show the facts about a network and its published weights.")
    info.add_argument("name")

    weights = commands.add_parser("weights", help="list: tabulate the published weights.")
    of_weights = weights.add_subparsers(required=True, metavar="COMMAND")
    weights_listing = command(_weights_list, "Tabulate the published weights.", of_weights)
    weights_listing.add_argument("pattern", nargs="?", default="*", help="networks to show, such as 'resnext*'")

    download = command(_download, "Bring published weights to this machine, checked and converted.")
    download.add_argument("weights", nargs="+", metavar="NAME[:TAG]", help="network and tag (default: its first)")

    converting = command(_convert, "Turn a PyTorch checkpoint into a Keras model.")
    converting.add_argument("checkpoint", help=".safetensors, .pth or .pt file")
    converting.add_argument("name", help="network that it belongs to")
    converting.add_argument("path", help=".keras file to write")
    converting.add_argument("--overwrite", action="store_true", help="replace what is at the path")

    predict = command(_predict, "Name what is in image files.")
    predict.add_argument("images", nargs="+", metavar="IMAGE")
    predict.add_argument("--model", default="resnet20_cifar", metavar="NAME[:TAG]",
                         help="network, or .keras file (default: %(default)s)")  # fmt: skip
    predict.add_argument("--weights", help="tag or file of weights (default: the network's first)")
    predict.add_argument("--top", type=int, help="classes per image (default: 5, or all of fewer)")

    exporting = command(_export, "Write a network for another runtime, with a proof that it computes the same.")
    exporting.add_argument("model", help="network or .keras file")
    exporting.add_argument("path", help="file or folder to write")
    exporting.add_argument(
        "--format", choices=("saved_model", "tflite", "onnx"), help="(default: by the path's suffix)"
    )
    exporting.add_argument("--overwrite", action="store_true", help="replace what is at the path")
    exporting.add_argument("--weights", help="tag, file, or 'none' for random ones (default: the network's first)")
    return parser


def _list(options: argparse.Namespace) -> None:
    names = list_models(options.pattern, options.family, options.pretrained)
    if not names:
        raise ValueError(f"no network called {options.pattern!r} is among those asked for")
    infos = [model_info(name) for name in names]
    if options.json:
        return _print_json([dataclasses.asdict(info) for info in infos])
    rows = []
    for info in infos:
        weights = ", ".join(list(info.weights)[:2]) + (" …" if len(info.weights) > 2 else "")
        rows.append((info.name, info.family, f"{info.params / 1e6:.2f}", f"{info.gmacs:.2f}", info.input_size, weights))
    columns = ("name", "family", "params (M)", "GMACs", "input", "weights")
    _print_table(columns, rows, numbers=("params (M)", "GMACs", "input"))


def _info(options: argparse.Namespace) -> None:
    info = model_info(options.name)
    if options.json:
        return _print_json(dataclasses.asdict(info))
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
    _print_table(("", ""), facts)
    if info.weights:
        columns = ("weights", "top-1", "top-5", "input", "classes", "licence", "source")
        rows = [
            (w.tag, _percent(w.top1), _percent(w.top5), w.input_size, w.classes, w.licence, w.source)
            for w in info.weights.values()
        ]
        _print_table(columns, rows, numbers=("top-1", "top-5", "input", "classes"))


def _weights_list(options: argparse.Namespace) -> None:
    infos = [model_info(name) for name in list_models(options.pattern, pretrained=True)]
    if not infos:
        raise ValueError(f"no network called {options.pattern!r} has published weights")
    entries = [(info, entry) for info in infos for entry in info.weights.values()]
    if options.json:
        return _print_json([{"network": info.name, **dataclasses.asdict(entry)} for info, entry in entries])
    columns = ("network", "weights", "top-1", "top-5", "input", "MB", "licence", "here")
    rows = [
        (info.name, entry.tag, _percent(entry.top1), _percent(entry.top5), entry.input_size, f"{info.params * 4e-6:.0f}",
         entry.licence, "yes" if is_here(info.name, entry) else "")
        for info, entry in entries
    ]  # fmt: skip
    _print_table(columns, rows, numbers=("top-1", "top-5", "input", "MB"))


def _download(options: argparse.Namespace) -> None:
    wanted = []
    for name, _, tag in (given.partition(":") for given in options.weights):
        tag = tag or next(iter(find(name).weights), "")
        wanted.append((name, published(find(name), tag)))
    files = [(name, entry, download_weights(name, entry)) for name, entry in wanted]
    if options.json:
        return _print_json([{"network": name, "weights": entry.tag, "file": path} for name, entry, path in files])
    rows = [(name, entry.tag, entry.licence, f"{path.stat().st_size / 1e6:.1f}", path) for name, entry, path in files]
    _print_table(("network", "weights", "licence", "MB", "file"), rows, numbers=("MB",))


def _convert(options: argparse.Namespace) -> None:
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
        return _print_json(facts)
    _print_table(("", ""), [
        ("written", path),
        ("network", f"{options.name}, " + ("no classifier" if classes is None else f"{classes} classes")),
        ("size", f"{path.stat().st_size / 1e6:.2f} MB"),
    ])  # fmt: skip


def _predict(options: argparse.Namespace) -> None:
    network = _open(options.model, options.weights)
    if not isinstance(network, Network):
        raise ValueError(f"model {options.model!r} is not a network of this package: its preprocessing is unknown")
    entry = expected_input(network)
    images = np.stack([load_image(path, entry) for path in options.images])
    probabilities = network.predict(preprocess_input(images, network), verbose=0)
    top = min(5, probabilities.shape[-1]) if options.top is None else options.top
    predictions = decode_predictions(probabilities, top, _labels(network))
    if options.json:
        keys = ("synset", "label", "score")
        return _print_json([
            {"image": path, "predictions": [dict(zip(keys, best, strict=True)) for best in ranking]}
            for path, ranking in zip(options.images, predictions, strict=True)
        ])  # fmt: skip
    rows = [
        (path if place == 0 else "", label, _bar(score), f"{score:.1%}", synset)
        for path, ranking in zip(options.images, predictions, strict=True)
        for place, (synset, label, score) in enumerate(ranking)
    ]
    _print_table(("image", "class", "", "score", "synset"), rows, numbers=("score",))


def _bar(score: float, cells: int = 20) -> str:
    """A bar of eighths of a cell: `score`, from 0 to 1, of the full length."""
    whole, eighths = divmod(round(score * cells * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def _labels(network: Network) -> str | list[str]:
    """Names of the classes as far as they are known, else numbers."""
    classes = network.output_shape[-1]
    if network.weights_tag == "digits" and classes == 10:
        return "digits"
    return "imagenet" if classes == 1000 else [f"class {i}" for i in range(classes)]


def _export(options: argparse.Namespace) -> None:
    from keras_resnets.export import export

    suffix = Path(options.path).suffix[1:]
    format = options.format or (suffix if suffix in ("tflite", "onnx") else "saved_model")
    model = _open(options.model, options.weights)
    report = export(model, options.path, format=format, overwrite=options.overwrite)
    if options.json:
        return _print_json(report.to_dict())
    facts = [
        ("written", report.path),
        ("format", report.format),
        ("network", f"{report.network}, weights {report.weights_tag or 'not published ones'}"),
        ("size", f"{report.size_bytes / 1e6:.2f} MB"),
        ("latency", f"{report.latency_ms:.2f} ms per image"),
        ("difference", f"{report.relative_difference:.1e} relative, on {report.images_compared} images"),
    ]
    _print_table(("", ""), facts)


def _open(name: str, weights: str | None) -> keras.Model:
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


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    # In a pipe every row is one line, however long.
    Console(width=None if sys.stdout.isatty() else 400, highlight=False, markup=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
