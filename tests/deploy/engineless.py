"""Builds and runs the image without a container engine: for a machine that has no daemon.

    python -m tests.deploy.engineless        builds, states the size, starts it, asks /readyz and a prediction

Needs root, Debian's `buildah` and `mmdebstrap`, and a package index. The Dockerfile's base is stood in for
by a Debian of the same Python. IMAGE_BUILD_FLAGS takes further flags of `buildah build`, such as
`--volume /etc/pip.conf:/etc/pip.conf:ro` for an index of one's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "unshare", "setpriv", "chroot")
PACKAGES = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
USER = "10001:10001"


def missing_tools() -> list[str]:
    """Name what this machine lacks."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return missing + ([] if os.geteuid() == 0 else ["root"])


@dataclass(frozen=True)
class Store:
    """A place of its own for images, beside whatever else the machine has."""

    folder: Path

    def buildah(self, *arguments: str, cwd: Path = ROOT) -> str:
        """Run buildah and give its standard output."""
        places = (
            "--root",
            f"{self.folder}/store",
            "--runroot",
            f"{self.folder}/run",
            "--storage-driver",
            "vfs",
        )
        done = subprocess.run(
            ["buildah", *places, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"buildah {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout.strip()

    def build_base(self) -> str:
        """Make a Debian with Python and tag it as the Dockerfile's base."""
        found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert found is not None
        name, suite = found[1], found[1].rsplit("-", 1)[1]
        archive = self.folder / "base.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", suite, str(archive)]
        subprocess.run(command, check=True)
        (self.folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        self._build("docker.io/library/" + name, ".", cwd=self.folder)
        archive.unlink()
        return name

    def build(self, tag: str, **arguments: str) -> None:
        """Build the project's image."""
        flags = [flag for name, value in arguments.items() for flag in ("--build-arg", f"{name}={value}")]
        self._build(tag, *shlex.split(os.environ.get("IMAGE_BUILD_FLAGS", "")), *flags, str(ROOT))

    def _build(self, tag: str, *arguments: str, cwd: Path = ROOT) -> None:
        fixed = (
            "--isolation",
            "chroot",
            "--pull=never",
            "--format",
            "docker",
        )  # only docker's has health checks
        self.buildah("build", *fixed, "--tag", tag, *arguments, cwd=cwd)

    def config(self, tag: str) -> dict[str, Any]:
        """Read what the image says of itself."""
        document: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", tag))
        config: dict[str, Any] = document["Docker"]["config"]
        return config

    def size_megabytes(self, tag: str) -> float:
        """Measure the image, uncompressed, base included."""
        (image,) = json.loads(self.buildah("images", "--json", tag))
        number, unit = image["size"].split()
        return float(number) * {"MB": 1, "GB": 1000}[unit]

    @contextlib.contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        """Give the image's tree."""
        container = self.buildah("from", "--pull=never", tag)
        try:
            yield Path(self.buildah("mount", container))
        finally:
            self.buildah("rm", container)


@contextlib.contextmanager
def running(tree: Path, config: dict[str, Any], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the image's entry point as its user, the tree read-only but for a `/tmp` of its own."""
    assert config["User"] == USER
    variables = [*config["Env"], *(f"{name}={value}" for name, value in environment.items())]
    command = shlex.join(["env", "-i", *variables, *config["Entrypoint"], *config["Cmd"]])
    script = f"""set -e
        mount --bind {tree} {tree}
        mount -t proc proc {tree}/proc
        mount -t tmpfs -o mode=1777,size=64m tmp {tree}/tmp
        mount -o remount,bind,ro {tree}
        exec setpriv --no-new-privs --inh-caps=-all chroot --userspec={USER} --groups= {tree} {command}"""
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ask(url: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send one request; give the status and the JSON answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def wait_until_ready(url: str, seconds: float = 60) -> Any:
    """Wait for `/readyz`; give its answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            status, answer = ask(f"{url}/readyz")
            if status == 200:
                return answer
        time.sleep(0.2)
    raise TimeoutError(f"{url} was not ready within {seconds} s")


def say(*words: object) -> None:
    """Print a line at once, in order with the service's own."""
    print(*words, flush=True)  # noqa: T201


def main() -> None:
    """Build, measure, start, ask."""
    if missing := missing_tools():
        raise SystemExit(f"missing: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="kotae-image-") as folder:
        store = Store(Path(folder))
        store.build_base()
        store.build("kotae")
        say(f"built: {store.size_megabytes('kotae'):.0f} MB with its base")
        with store.mounted("kotae") as tree:
            url, picture = "http://127.0.0.1:18080", next((tree / "models/digits").rglob("golden/*.png"))
            with running(tree, store.config("kotae"), KOTAE_AUTH="off", KOTAE_PORT="18080") as process:
                say("/readyz:", wait_until_ready(url))
                say(picture.name, *ask(f"{url}/v1/image-classification", picture.read_bytes()))
                process.terminate()
                say("exit code after SIGTERM:", process.wait(60))


if __name__ == "__main__":
    main()
