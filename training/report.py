"""The one-page report of the demo: figures, table and pictures in a single HTML file that needs nothing else."""

import base64
import html
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.run_folder import write_text

TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def write(path: Path, texts: Mapping[str, str], facts: Iterable[tuple[str, str]], formats: Sequence[Sequence[str]],
          pictures: Mapping[str, Path]) -> None:  # fmt: skip
    """Fills the template and writes it whole.

    Args:
        path: of the HTML file.
        texts: plain text by name of the template's place.
        facts: figures, as (figure, what it is).
        formats: rows of the table of artifacts, the header first.
        pictures: PNG files by name of the template's place.
    """
    places = {name: html.escape(text) for name, text in texts.items()}
    places["facts"] = "".join(
        f'<div class="fact"><b>{html.escape(figure)}</b><span>{html.escape(what)}</span></div>'
        for figure, what in facts
    )
    header, *rows = formats
    places["formats"] = _row(header, "th") + "".join(_row(row, "td") for row in rows)
    places |= {name: _embedded(picture) for name, picture in pictures.items()}
    write_text(path, string.Template(TEMPLATE.read_text("utf-8")).substitute(places))


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _embedded(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
