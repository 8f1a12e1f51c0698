"""Writes what is generated from the registry: `python -m docs.tables` (or `make tables`) after adding a network.

* keras_resnets/data/sizes.json: parameters, GMACs and CIO, measured on the networks themselves;
* docs/models.md: the table of all networks;
* the tables of families and of published weights in README.md, each between its two markers;
* from benchmarks/results: all that was aimed at in its README.md, the headlines in README.md, what was missed in
  docs/performance.md.
"""

import json
import pathlib
from collections.abc import Callable

import keras_resnets as kr
from benchmarks.harness import RESULTS, machines
from benchmarks.table import Target
from keras_resnets import registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = ROOT / "keras_resnets" / "data" / "sizes.json"


def update_sizes() -> None:
    """Measures the networks that the file lacks, and drops rows of networks that are gone."""
    known = json.loads(SIZES.read_text())
    sizes = {name: known.get(name) or list(registry.measure(name)) for name in kr.list_models()}
    lines = [f"  {json.dumps(name)}: {json.dumps(size)}" for name, size in sizes.items()]
    write(SIZES, "{\n" + ",\n".join(lines) + "\n}\n")
    registry.sizes.cache_clear()


def families() -> list[str]:
    """Names of the families, sorted."""
    return sorted({kr.model_info(name).family for name in kr.list_models()}, key=str.lower)


def models_page() -> str:
    """docs/models.md: every network, family by family."""
    lines = [
        "# Networks",
        "",
        "Generated from the registry by `make tables`. Parameters are trainable ones; GMACs and CIO (millions of elements of",
        "feature maps that convolutions read and write) are for one image of the size given, with the default number of",
        "classes. Weights are tags for `weights=`, the first is the default.",
        "",
    ]
    for family in families():
        lines += [
            f"## {family}",
            "",
            "| name | builder | parameters | GMACs | CIO (M) | input | weights |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        for name in kr.list_models(family=family):
            info = kr.model_info(name)
            tags = ", ".join(f"`{tag}`" for tag in info.weights) or "–"
            costs = f"{info.params:,} | {info.gmacs:.3f} | {info.cio / 1e6:.2f}"
            lines.append(f"| `{name}` | `{info.builder}` | {costs} | {info.input_size} | {tags} |")
        lines += [
            "",
            "Papers: " + "; ".join(sorted({kr.model_info(name).paper for name in kr.list_models(family=family)})) + ".",
            "",
        ]
    return "\n".join(lines)


def families_table() -> str:
    """The README's table: one row per family."""
    lines = ["| family | networks | for example | parameters (M) | paper |", "|---|---:|---|---:|---|"]
    for family in families():
        infos = sorted((kr.model_info(name) for name in kr.list_models(family=family)), key=lambda info: info.params)
        known = [info for info in infos if info.weights] or infos
        examples = ", ".join(f"`{info.name}`" for info in known[:: max(1, len(known) // 3)][:3])
        span = " – ".join(dict.fromkeys(f"{info.params / 1e6:.1f}" for info in (infos[0], infos[-1])))
        lines.append(f"| {family} | {len(infos)} | {examples} | {span} | {infos[0].paper} |")
    return "\n".join(lines)


def weights_table() -> str:
    """The README's table of published weights: one row per network and tag, the network's default first."""
    lines = ["| network | weights | top-1 (%) | input | size (MB) | licence |", "|---|---|---:|---:|---:|---|"]
    for name in kr.list_models(pretrained=True):
        info = kr.model_info(name)
        for entry in info.weights.values():
            top1 = "–" if entry.top1 is None else f"{entry.top1:.2f}"
            if entry.test_top1 is not None:
                top1 += f" ({entry.test_top1:.2f} at {entry.test_input_size})"
            size = f"{info.params * 4e-6:.1f}"
            lines.append(f"| `{name}` | `{entry.tag}` | {top1} | {entry.input_size} | {size} | {entry.licence} |")
    return "\n".join(lines)


def speed_table(chosen: Callable[[Target], bool], folder: str | None = None) -> str:
    """What the benchmarks aimed at and what they found, of the targets `chosen`; with links to their pages in `folder`."""
    page_header, page_rule = ("", "") if folder is None else ("| page ", "|---")
    lines = [f"{page_header}| measured | | aimed at | |", f"{page_rule}|---|---:|---|---|"]
    shown = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        for target in filter(chosen, map(Target.of, record.get("targets", []))):
            page = "" if folder is None else f"| [{path.stem}]({folder}{path.stem}.md) "
            met = "met" if target.met else "**missed**"
            lines.append(f"{page}| {target.text} | {target.shown} | {target.bound} | {met} |")
            shown.append(record)
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines(shown))}."])


def results_page() -> str:
    """benchmarks/results/README.md: all that was aimed at, page by page."""
    return "\n".join(
        [
            "# Results",
            "",
            "What `make bench` measured, and against what; generated by `make tables`. Each page has a table, a picture and, as",
            "JSON, every figure; [docs/performance.md](../../docs/performance.md) explains them.",
            "",
            speed_table(lambda target: True, folder=""),
            "",
        ]
    )


def with_tables(text: str, tables: dict[str, str]) -> str:
    """`text` with its tables, by name, brought up to date."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: generated by docs/tables.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def readme_with_tables(readme: str) -> str:
    """`readme` with its tables brought up to date."""
    return with_tables(
        readme,
        {
            "families": families_table(),
            "weights": weights_table(),
            "speed": speed_table(lambda target: target.headline),
        },
    )


def performance_with_table(page: str) -> str:
    """docs/performance.md with its table of missed targets brought up to date."""
    return with_tables(page, {"missed": speed_table(lambda target: not target.met, folder="../benchmarks/results/")})


def write(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or nothing."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    update_sizes()
    write(ROOT / "docs" / "models.md", models_page())
    write(RESULTS / "README.md", results_page())
    performance = ROOT / "docs" / "performance.md"
    write(performance, performance_with_table(performance.read_text("utf-8")))
    write(ROOT / "README.md", readme_with_tables((ROOT / "README.md").read_text("utf-8")))
