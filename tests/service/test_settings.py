"""Settings: their sources, which one has priority, and errors that stop the start."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import StartFailed
from service.settings import CONFIG_VARIABLE, PREFIX, RENAMED, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    yield


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `KOTAE_CONFIG` points; the test writes it."""
    path = tmp_path / "kotae.yaml"
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def test_without_anything_set_the_service_listens_on_loopback() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8080, Path("models"))


def test_an_argument_wins_over_the_environment_and_that_over_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text("port: 1001\n")
    assert load_settings().port == 1001
    monkeypatch.setenv("KOTAE_PORT", "1002")
    assert load_settings().port == 1002
    assert load_settings(port=1003).port == 1003


def test_sources_are_merged_field_by_field(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file.write_text("port: 1001\nhost: 0.0.0.0\nlog_level: error\n")
    monkeypatch.setenv("KOTAE_HOST", "::1")
    settings = load_settings(log_level="debug")
    assert (settings.port, settings.host, settings.log_level) == (1001, "::1", "debug")


def test_an_argument_that_is_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOTAE_PORT", "1002")
    assert load_settings(port=None, host=None).port == 1002


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 65535), st.integers(1, 1024), st.floats(0, 86400, allow_subnormal=False))
def test_a_value_from_the_environment_is_the_value_that_was_written(
    port: int, threads: int, grace: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOTAE_PORT", str(port))
        patch.setenv("KOTAE_CPU_THREADS", str(threads))
        patch.setenv("KOTAE_DRAIN_GRACE_SECONDS", repr(grace))
        loaded = load_settings()
    assert (loaded.port, loaded.cpu_threads, loaded.drain_grace_seconds) == (port, threads, grace)


@pytest.mark.parametrize("name", ["KOTAE_PROT", "KOTAE_MODEL", "KOTAE_", "KOTAE_SERVICES_HOST"])
def test_an_unknown_variable_stops_the_start_and_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartFailed, match=rf"\b{name}\b"):
        load_settings()


def test_all_unknown_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOTAE_B_TYPO", "1")
    monkeypatch.setenv("KOTAE_A_TYPO", "1")
    with pytest.raises(StartFailed, match="KOTAE_A_TYPO, KOTAE_B_TYPO"):
        load_settings()


INJECTED = {
    "KOTAE_PORT": "tcp://10.0.0.1:8080",
    "KOTAE_SERVICE_HOST": "10.0.0.1",
    "KOTAE_SERVICE_PORT": "8080",
    "KOTAE_SERVICE_PORT_HTTP": "8080",
    "KOTAE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "KOTAE_PORT_8080_TCP_ADDR": "10.0.0.1",
    "KOTAE_PORT_8080_TCP_PORT": "8080",
    "KOTAE_PORT_8080_TCP_PROTO": "tcp",
    "KOTAE_WEB_SERVICE_HOST": "10.0.0.2",
    "KOTAE_WEB_SERVICE_PORT_HTTP": "80",
    "KOTAE_WEB_PORT": "tcp://10.0.0.2:80",
    "KOTAE_WEB_PORT_80_TCP": "tcp://10.0.0.2:80",
    "KOTAE_WEB_PORT_80_TCP_ADDR": "10.0.0.2",
    "KOTAE_DNS_PORT": "udp://10.0.0.3:53",
    "KOTAE_OPERATIONS_PORT": "tcp://10.0.0.4:9090",
}


@pytest.mark.parametrize("name", INJECTED)
def test_what_kubernetes_injects_for_a_service_is_ignored_with_a_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, INJECTED[name])
    with caplog.at_level(logging.WARNING):
        settings = load_settings()
    assert (settings.port, settings.operations_port) == (8080, None)
    assert [(record.levelname, name in record.getMessage()) for record in caplog.records] == [
        ("WARNING", True)
    ]


def test_settings_beside_injected_variables_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INJECTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KOTAE_MAX_PIXELS", "99")
    assert load_settings().max_pixels == 99


def test_an_injected_port_does_not_hide_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text("port: 1001\n")
    monkeypatch.setenv("KOTAE_PORT", "tcp://10.0.0.1:8080")
    assert load_settings().port == 1001


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("port", "http"),
        ("device", "tpu"),
        ("device", "cuda:"),
        ("device", "cuda:x"),
        ("auth", "maybe"),
        ("log_level", "loud"),
        ("cpu_threads", 0),
        ("decode_threads", 0),
        ("max_body_bytes", 1),
        ("max_items_per_request", 0),
        ("max_pixels", 0),
        ("drain_grace_seconds", -0.1),
        ("drain_limit_seconds", float("nan")),
        ("body_timeout_seconds", float("inf")),
        ("heartbeat_seconds", 0),
        ("heartbeat_limit_seconds", 0),
        ("batch_limit_seconds", 0),
        ("lane_restart_limit", -1),
    ],
)
def test_a_value_out_of_range_stops_the_start_and_names_the_setting(
    field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartFailed, match=field):
        load_settings(**{field: value})
    monkeypatch.setenv(PREFIX + field.upper(), str(value))
    with pytest.raises(StartFailed, match=field):
        load_settings()


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:13"])
def test_devices_are_named_as_in_a_manifest(device: str) -> None:
    assert load_settings(device=device).device == device


def test_an_unknown_key_in_the_file_stops_the_start(settings_file: Path) -> None:
    settings_file.write_text("prot: 8080\n")
    with pytest.raises(StartFailed, match="prot"):
        load_settings()


@pytest.mark.parametrize(
    "content", [b"port: [", b"[1, 2]", b"words", b"port: \xff", b"port: !!python/name:os.x"]
)
def test_a_broken_file_stops_the_start_in_one_line(settings_file: Path, content: bytes) -> None:
    settings_file.write_bytes(content)
    with pytest.raises(StartFailed) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}"])
def test_a_file_without_settings_changes_nothing(settings_file: Path, content: str) -> None:
    settings_file.write_text(content)
    assert load_settings() == Settings()


def test_a_file_that_is_not_there_stops_the_start_and_is_named(settings_file: Path) -> None:
    with pytest.raises(StartFailed, match=settings_file.name):
        load_settings()


def test_a_folder_is_no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
    with pytest.raises(StartFailed, match=tmp_path.name):
        load_settings()


@pytest.mark.parametrize("old", RENAMED)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_the_old_name_of_a_setting_is_read_with_one_warning(
    old: str,
    place: str,
    settings_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new, value = RENAMED[old], str(2**24 if old.endswith("bytes") else 3)
    settings_file.write_text(f"{old}: {value}\n" if place == "file" else "")
    if place == "environment":
        monkeypatch.setenv(PREFIX + old.upper(), value)
        old, name = PREFIX + old.upper(), PREFIX + new.upper()
    else:
        name = new
    with caplog.at_level(logging.WARNING):
        assert getattr(load_settings(), new) == float(value)
    (warning,) = caplog.messages
    assert warning.startswith(f"{old} is now {name};")


@pytest.mark.parametrize("place", ["environment", "file"])
def test_different_values_under_the_old_and_the_new_name_stop_the_start(
    place: str, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "file":
        settings_file.write_text("restart_patience_seconds: 2\nengine_restart_timeout_seconds: 3\n")
    else:
        settings_file.write_text("")
        monkeypatch.setenv("KOTAE_RESTART_PATIENCE_SECONDS", "2")
        monkeypatch.setenv("KOTAE_ENGINE_RESTART_TIMEOUT_SECONDS", "3")
    with pytest.raises(
        StartFailed,
        match=r"(?i)restart_patience_seconds is the old name of \w*engine_restart_timeout_seconds",
    ):
        load_settings()
    settings_file.write_text("restart_patience_seconds: 3\nengine_restart_timeout_seconds: 3\n")
    monkeypatch.setenv("KOTAE_RESTART_PATIENCE_SECONDS", "3")
    monkeypatch.setenv("KOTAE_ENGINE_RESTART_TIMEOUT_SECONDS", "3")
    assert load_settings().engine_restart_timeout_seconds == 3


def test_an_old_name_in_the_environment_wins_over_the_new_one_in_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text("engine_restart_timeout_seconds: 2\n")
    monkeypatch.setenv("KOTAE_RESTART_PATIENCE_SECONDS", "3")
    assert load_settings().engine_restart_timeout_seconds == 3


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described_and_every_number_is_bounded() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        if field.annotation in (int, float, int | None):
            assert field.metadata, f"{name} has no bounds"
