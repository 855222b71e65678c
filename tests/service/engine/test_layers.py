"""Inside the engine, imports go in one direction: lanes know queues and sessions, and not the other way."""

from __future__ import annotations

import pytest

from tests.service.test_imports import SERVICE, imports_of, is_within

# Package of `service.engine` -> what it may import of the engine, itself left out.
ALLOWED = {
    "queue": ["observer", "runtime.memory", "runtime.shape_buckets"],
    "runtime": [],
    "cuda": ["runtime"],
    "lane": ["observer", "queue", "runtime"],
}


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_of_the_engine_imports_only_the_layers_below(package: str) -> None:
    allowed = [f"service.engine.{name}" for name in (package, *ALLOWED[package])]
    wrong = [
        str(found)
        for module in SERVICE
        if is_within(module, [f"service.engine.{package}"])
        for found in imports_of(module)
        if is_within(found.target, ["service.engine"]) and not is_within(found.target, allowed)
    ]
    assert not wrong, "; ".join(wrong)
