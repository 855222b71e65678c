"""Stand-ins for Debian's packages: folders in place of what apt would fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from training.data import debian_packages


def packages_hold(monkeypatch: pytest.MonkeyPatch, folders: Mapping[str, Path]) -> None:
    """Let packages hold what lies in folders, without any network.

    Args:
        monkeypatch: Of the test.
        folders: By the package's name; what is in a folder would be installed at the root.
    """
    real = debian_packages.run_command

    def run(command: Sequence[str], folder: Path | None = None) -> bytes:
        assert folder is not None
        if command[0] == "apt-get":
            for name in command[2:]:
                (folder / f"{name}_1.0_all.deb").write_bytes(b"")
            return b""
        name = Path(command[-1]).name.partition("_")[0]
        return real(["tar", "-c", "-C", str(folders[name]), "."])

    monkeypatch.setattr(debian_packages, "run_command", run)
