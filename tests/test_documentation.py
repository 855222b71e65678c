"""The documentation says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

from docs.make_tables import DOCS, metrics_page, settings_page

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_settings_and_metrics_pages_equal_the_code() -> None:
    advice = "run `python docs/make_tables.py --write`"
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page(), advice
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics_page(), advice


def test_links_and_pictures_in_the_documentation_lead_somewhere() -> None:
    for page in (REPOSITORY / "README.md", *DOCS.glob("*.md"), *REPOSITORY.glob("models/*/README.md")):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / unquote(target)).exists(), f"{page.name} links to {target}"


def test_every_setting_and_make_target_that_the_readme_names_exists() -> None:
    known = set(re.findall(r"`(KOTAE_[A-Z_]+)`", settings_page())) | {"KOTAE_CONFIG"}
    assert set(re.findall(r"\b(KOTAE_[A-Z_]+)\b", README)) <= known
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets


def test_the_readme_stays_readable() -> None:
    assert len(README.splitlines()) <= 250


def test_every_module_of_the_tree_in_the_readme_exists() -> None:
    tree = re.search(r"```\n(service/.*?)```", README, re.S)
    assert tree is not None
    for line in tree[1].splitlines():
        path = line.split()[0]
        assert (REPOSITORY / path).exists(), path


def test_constraints_pin_every_dependency_exactly() -> None:
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split("==", pin)[0].lower().replace("_", "-") for pin in pins}
    assert all("==" in pin for pin in pins)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *optional["cpu"], *optional["train"], *optional["dev"]]
    for requirement in wanted:
        name = re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")
        assert name in names, f"{name} is not pinned"


def test_every_figure_of_the_models_table_stands_in_the_models_card() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| [\w -]+ \| (.+) \| \[card\]", README, re.M)
    shipped = {folder.parent.name for folder in REPOSITORY.glob("models/*/model.yaml")}
    assert {name for name, _ in rows} == shipped
    for name, held_out in rows:
        card = (REPOSITORY / "models" / name / "README.md").read_text(encoding="utf-8").replace(",", "")
        figures = re.findall(r"\d+(?:\.\d+)?%?", held_out.replace(",", ""))
        assert figures
        for figure in figures:
            assert figure in card, f"{figure} of {name} is not in its card"
