"""The queries of the dashboards and the rule files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "kotae"
RULES = CHART / "rules"
DASHBOARDS = CHART / "dashboards"

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*[\w(])")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_KEYWORDS = frozenset(
    ("and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "Inf", "NaN")
)


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and its place.

    Attributes:
        kind: `panel`, `record` or `alert`.
        owner: File and panel title or rule name.
    """

    kind: str
    owner: str
    expression: str


def read_dashboard(path: Path) -> dict[str, Any]:
    """Read a Grafana dashboard."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels_of(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows and panels, including those in collapsed rows."""
    return [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", ()))]


def read_rules() -> list[dict[str, Any]]:
    """Read the rules of all files, in order."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def panel_queries() -> Iterator[Query]:
    """Yield the queries of all panels."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in panels_of(read_dashboard(path)):
            for target in panel.get("targets", ()):
                yield Query("panel", f"{path.name}: {panel['title']}", target["expr"])


def rule_queries() -> Iterator[Query]:
    """Yield the expressions of all rules."""
    for rule in read_rules():
        kind = "record" if "record" in rule else "alert"
        yield Query(kind, rule[kind], rule["expr"])


def substitute(expression: str, rate_interval: str) -> str:
    """Replace a dashboard's variables as Grafana does with `All` selected."""
    filled = expression.replace("$__rate_interval", rate_interval)
    return re.sub(r"\$(namespace|job|instance|model)\b", ".*", filled)


def selectors(expression: str) -> list[str]:
    """Return the vector selectors of an expression: metric names with their matchers.

    Ranges, offsets and groupings are left out. Braces within strings are not understood.
    """
    strings: list[str] = []

    def keep(match: re.Match[str]) -> str:
        strings.append(match.group())
        return f'"{len(strings) - 1}"'

    bare = _STRING.sub(keep, expression)
    bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", bare))
    bare = re.sub(r"\boffset\s+\w+", "", bare)
    return [
        name + re.sub(r'"(\d+)"', lambda index: strings[int(index.group(1))], matchers or "")
        for name, matchers in _SELECTOR.findall(bare)
        if name not in _KEYWORDS
    ]


def metric_names(expression: str) -> set[str]:
    """Return the metrics that an expression reads."""
    return {selector.partition("{")[0] for selector in selectors(expression)}


def label_names(expression: str) -> set[str]:
    """Return the labels that an expression matches or groups by."""
    bare = _STRING.sub('""', expression)
    matched = {name for block in re.findall(r"\{([^}]*)\}", bare) for name in _MATCHER.findall(block)}
    grouped = {name.strip() for block in _GROUPING.findall(bare) for name in block.split(",") if name.strip()}
    return matched | grouped
