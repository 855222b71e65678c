"""The documentation agrees with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

from docs.make_tables import DOCS, metrics_page, settings_page
from service.errors import RequestError

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "benchmarks/README.md",
    REPOSITORY / "helm/kotae/README.md",
    *DOCS.glob("*.md"),
    *REPOSITORY.glob("models/*/README.md"),
]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, formed as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_settings_and_metrics_pages_equal_the_code() -> None:
    advice = "run `python docs/make_tables.py --write`"
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page(), advice
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics_page(), advice


def test_links_and_pictures_in_the_documentation_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / unquote(path) if path else page
            assert file.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page} links to {target}"


def test_every_setting_and_make_target_in_the_readme_and_the_api_page_exists() -> None:
    known = set(re.findall(r"`(KOTAE_[A-Z_]+)`", settings_page())) | {"KOTAE_CONFIG"}
    text = README + (DOCS / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(KOTAE_[A-Z_]+)\b", text)) <= known
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", README, re.M)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def test_the_table_of_errors_equals_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    errors = RequestError.__subclasses__()
    assert sorted(rows) == sorted((str(error.status), error.code) for error in errors)


def test_every_recipe_is_in_the_table_of_recipes() -> None:
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    table = page.partition("| recipe |")[2].partition("\n\n")[0]
    recipes = {path.stem for path in (REPOSITORY / "training/recipes").glob("*.yaml")}
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.M)) == recipes


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_tree_in_the_readme_equals_the_folders() -> None:
    tree = re.search(r"```\n(service/.*?)```", README, re.S)
    assert tree is not None
    shown = {line.split()[0].rstrip("/") for line in tree[1].splitlines()}
    assert all((REPOSITORY / path).exists() for path in shown)
    packages = {f"service/{init.parent.name}" for init in REPOSITORY.glob("service/*/__init__.py")}
    assert packages <= shown


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


def test_every_figure_of_the_models_table_is_in_the_models_card() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| [\w -]+ \| (.+) \| \[card\]", README, re.M)
    shipped = {folder.parent.name for folder in REPOSITORY.glob("models/*/model.yaml")}
    assert {name for name, _ in rows} == shipped
    for name, held_out in rows:
        card = (REPOSITORY / "models" / name / "README.md").read_text(encoding="utf-8").replace(",", "")
        figures = re.findall(r"\d+(?:\.\d+)?%?", held_out.replace(",", ""))
        assert figures
        for figure in figures:
            assert figure in card, f"{figure} of {name} is not in its card"
