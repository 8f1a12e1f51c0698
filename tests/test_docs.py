"""The generated tables are current, and the README's examples do what it says."""

import re
from typing import Any

import pytest

from docs import tables


def test_table_of_networks_is_current() -> None:
    page = (tables.ROOT / "docs" / "models.md").read_text("utf-8")
    assert page == tables.models_page(), "run `make tables`"


def test_tables_in_the_readme_are_current() -> None:
    readme = (tables.ROOT / "README.md").read_text("utf-8")
    assert readme == tables.readme_with_tables(readme), "run `make tables`"


def test_tables_of_what_was_measured_are_current() -> None:
    page = (tables.ROOT / "docs" / "performance.md").read_text("utf-8")
    assert page == tables.performance_with_table(page), "run `make tables`"
    assert (tables.RESULTS / "README.md").read_text("utf-8") == tables.results_page(), "run `make tables`"


def test_transfer_learning_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as it is printed, and what it learned from sixty scans holds for the others."""
    pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the images")
    readme = (tables.ROOT / "README.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "kr.freeze(" in block)
    variables: dict[str, Any] = {}
    exec(code, variables)
    printed = capsys.readouterr()
    assert "weights 'digits' of 'resnet20_cifar': 95/97 tensors loaded, head 10→2 new" in printed.err
    accuracy = float(printed.out.strip("[]\n").split(", ")[-1])
    assert accuracy > 0.95
