"""Print docs/settings.md and docs/metrics.md as generated from the code: `python docs/make_tables.py`.

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

Settings are environment variables, or keys of the YAML file that `KOTAE_CONFIG` or `--config` names (there
without the prefix, in lower case). Command-line options override variables, variables override the file.
An unknown name stops the start.

A *lane* is the thread that runs batches on a device, one batch at a time.

| variable | default | meaning |
| --- | --- | --- |
"""
METRICS = """# Metrics

Units are seconds and bytes. All label values come from closed sets: paths without a route have the route
`unmatched`. Status 499 means that the client disconnected. The usual `process_*` and `python_*` metrics are
exported as well.

A *lane* is the thread that runs batches on a device, one batch at a time.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        meaning = f"{field.description}{_choices(field.annotation)}"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {meaning} |\n")
    return SETTINGS + "".join(rows)


def metrics_page() -> str:
    """Return the text of docs/metrics.md."""
    metrics = Metrics()
    state = ModelState("m", failed_check="load", golden_check_error=0.0)
    metrics.heartbeat()
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
