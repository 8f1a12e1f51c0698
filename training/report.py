"""Reports as one HTML file that needs nothing else: that of a run, which is there as Markdown as well, and that of the demo."""

import base64
import html
import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from training import plots
from training.monitor import duration
from training.recipe import Recipe
from training.run_folder import RunFolder, read_log, write_text

TEMPLATES = Path(__file__).parent / "templates"
EPOCHS = 12  # rows of a run's table, at most
WORST = 10  # classes listed
SHOWN = {"epoch": "{:.0f}", "learning_rate": "{:.3g}", "train_loss": "{:.3f}", "train_accuracy": "{:.2%}",
         "test_loss": "{:.3f}", "test_accuracy": "{:.2%}", "test_top5": "{:.2%}", "images_per_second": "{:,.0f}",
         "data_wait": "{:.0%}"}  # fmt: skip
Table = Sequence[Sequence[str]]


def write(path: Path, texts: Mapping[str, str], facts: Iterable[tuple[str, str]], formats: Table,
          pictures: Mapping[str, Path]) -> None:  # fmt: skip
    """Fills the demo's template and writes it whole.

    Args:
        path: of the HTML file.
        texts: plain text by name of the template's place.
        facts: figures, as (figure, what it is).
        formats: rows of the table of artifacts, the header first.
        pictures: PNG files by name of the template's place.
    """
    _fill("report.html", path, texts, pictures, facts=_facts(facts), formats=_table(formats))


def write_run_report(folder: RunFolder, recipe: Recipe, problems: Sequence[tuple[str, str]] = ()) -> None:
    """Writes `curves.png`, `report.md` and `report.html` of a run from its log, and from `evaluation.json` if it was evaluated.

    Args:
        folder: of the run; it has a log.
        recipe: of the run.
        problems: names of images that could not be read, and why.

    Raises:
        ValueError: no epoch is logged yet.
    """
    rows = read_log(folder.log)
    if not rows:
        raise ValueError(f"no epoch of {str(folder.path)!r} is logged yet")
    plots.save(plots.curves(rows, recipe.name), folder.curves)
    title, facts, epochs = recipe.description or recipe.name, run_facts(rows), epoch_table(rows)
    sections: list[tuple[str, str, Table]] = []
    if classes := worst_classes(folder.path / "evaluation.json"):
        text = f"The {len(classes) - 1} classes with the lowest recall, as training.evaluate found them."
        sections.append(("Hardest classes", text, classes))
    if problems:
        text = f"Could not be read, and others took their place: {len(problems)}."
        sections.append(("Images left out", text, [("image", "reason"), *problems]))
    said = f"{recipe.model.name}, {len(rows)} of {recipe.epochs} epochs, batches of {recipe.batch_size}."
    how = ("Accuracies of training are those on augmented images while the weights changed. The figures above are those after the "
           "last epoch; no epoch was chosen by its test accuracy.")  # fmt: skip
    parts = [f"# {title}", said, "\n".join(f"* {what}: {figure}" for figure, what in facts), "![curves](curves.png)", how,
             markdown(epochs)]  # fmt: skip
    for heading, text, table in sections:
        parts += [f"## {heading}", text, markdown(table)]
    parts += ["## Recipe", f"```yaml\n{recipe.to_yaml()}```"]
    write_text(folder.path / "report.md", "\n\n".join(parts) + "\n")
    texts = {"title": title, "subtitle": said, "training_text": how, "recipe": recipe.to_yaml(),
             "environment": folder.environment.read_text("utf-8")}  # fmt: skip
    further = "".join(f'\n  <section>\n    <h2>{html.escape(heading)}</h2>\n    <p class="soft">{html.escape(text)}</p>\n'
                      f'    <div class="scroll"><table>{_table(table)}</table></div>\n  </section>\n'
                      for heading, text, table in sections)  # fmt: skip
    _fill("run.html", folder.path / "report.html", texts, {"curves": folder.curves}, facts=_facts(facts), epochs=_table(epochs),
          further=further)  # fmt: skip


def run_facts(rows: Sequence[dict[str, float]]) -> list[tuple[str, str]]:
    """The figures of a run, as (figure, what it is)."""
    last = rows[-1]
    facts = []
    if math.isfinite(last.get("test_accuracy", math.nan)):
        facts.append((f"{last['test_accuracy']:.2%}", "test accuracy"))
    if math.isfinite(last.get("test_top5", math.nan)):
        facts.append((f"{last['test_top5']:.2%}", "top-5 test accuracy"))
    facts += [
        (f"{last['train_loss']:.3f}", "training loss"),
        (duration(sum(row["seconds"] for row in rows)), "training"),
    ]
    if "images_per_second" in last:
        facts.append(
            (f"{np.median([row['images_per_second'] for row in rows]):,.0f}", "images per second, median epoch")
        )
    if "data_wait" in last:
        facts.append((f"{np.mean([row['data_wait'] for row in rows]):.1%}", "of the time waiting for data"))
    return facts


def epoch_table(rows: Sequence[dict[str, float]], count: int = EPOCHS) -> list[tuple[str, ...]]:
    """At most `count` of the epochs, evenly spread, the last one among them; the header first."""
    columns = [key for key in SHOWN if key in rows[-1]]
    chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, min(count, len(rows)))})
    table = [tuple(key.replace("_", " ") for key in columns)]
    for row in (rows[place] for place in chosen):
        table.append(tuple("" if math.isnan(row[key]) else SHOWN[key].format(row[key]) for key in columns))
    return table


def worst_classes(evaluation: Path, count: int = WORST) -> list[tuple[str, ...]]:
    """The classes with the lowest recall in an `evaluation.json`, the header first; nothing if there is none."""
    if not evaluation.exists():
        return []
    classes = sorted(json.loads(evaluation.read_text("utf-8"))["classes"], key=lambda row: row["recall"])
    header = ("class", "images", "recognised", "recall")
    return [header, *((row["name"], str(row["images"]), str(row["recognised"]), f"{row['recall']:.1%}")
                      for row in classes[:count])]  # fmt: skip


def markdown(table: Table) -> str:
    """`table` in Markdown, its first row the header, its first column aligned to the left."""
    lines = [table[0], ["---", *["---:"] * (len(table[0]) - 1)], *table[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _fill(template: str, path: Path, texts: Mapping[str, str], pictures: Mapping[str, Path], **markup: str) -> None:
    places = {name: html.escape(text) for name, text in texts.items()}
    places |= {name: _embedded(picture) for name, picture in pictures.items()}
    places |= {"style": (TEMPLATES / "report.css").read_text("utf-8"), **markup}
    write_text(path, string.Template((TEMPLATES / template).read_text("utf-8")).substitute(places))


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<div class="fact"><b>{html.escape(figure)}</b><span>{html.escape(what)}</span></div>'
        for figure, what in facts
    )


def _table(table: Table) -> str:
    header, *rows = table
    return _row(header, "th") + "".join(_row(row, "td") for row in rows)


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _embedded(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
