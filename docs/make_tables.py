"""Print the tables of docs/settings.md and docs/metrics.md from the code: `python docs/make_tables.py`.

With `--write` the two files are written. A test compares them with the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from prometheus_client.metrics_core import Metric

from service.settings import PREFIX, Settings
from service.telemetry.devices import DeviceState
from service.telemetry.metrics import Metrics, ModelState

DOCS = Path(__file__).parent


SETTINGS = """# Settings

From the environment, or by field name (without prefix, in lower case) from the YAML file that
`KOTAE_CONFIG` or `--config` names; command-line options win over the environment, the environment over
the file. An unknown variable with the prefix stops the start.

| variable | default | meaning |
| --- | --- | --- |
"""
METRICS = """# Metrics

Seconds and bytes; labels from closed sets. `process_*` and `python_*` come beside them. Paths that match
no route share the route `unmatched`; status 499 is a client that hung up.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """Render docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        meaning = f"{field.description}{_choices(field.annotation)}"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {meaning} |\n")
    return SETTINGS + "".join(rows)


def metrics_page() -> str:
    """Render docs/metrics.md."""
    metrics = Metrics()
    state = ModelState("m", failed_check="load", golden_check_error=0.0)
    metrics.watch(lambda: [state], lambda: [("cpu", False)], 1)
    metrics.watch_devices(lambda: [DeviceState("cuda:0", 0, 0, 0.0, 0.0, 0.0, 0)])
    families = [family for family in metrics.registry.collect() if family.name.startswith("kotae_")]
    rows = []
    for family in sorted(families, key=lambda family: family.name):
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in _labels(metrics, family))
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |\n")
    return METRICS + "".join(rows)


def _choices(annotation: Any) -> str:
    choices = [f"`{choice}`" for choice in get_args(annotation) if isinstance(choice, str)]
    return f" One of {', '.join(choices)}." if choices else ""


def _labels(metrics: Metrics, family: Metric) -> list[str]:
    for collector in metrics.registry._collector_to_names:
        if getattr(collector, "_name", None) == family.name:
            return list(collector._labelnames)  # type: ignore[attr-defined]
    return list(family.samples[0].labels) if family.samples else []


if __name__ == "__main__":
    pages = {"settings.md": settings_page(), "metrics.md": metrics_page()}
    for name, text in pages.items():
        if "--write" in sys.argv:
            (DOCS / name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
