"""The generated tables are current."""

from docs import tables


def test_table_of_networks_is_current() -> None:
    page = (tables.ROOT / "docs" / "models.md").read_text("utf-8")
    assert page == tables.models_page(), "run `make tables`"


def test_table_of_families_in_the_readme_is_current() -> None:
    readme = (tables.ROOT / "README.md").read_text("utf-8")
    assert readme == tables.readme_with_table(readme), "run `make tables`"
