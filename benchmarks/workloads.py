"""A model, its items, and the requests for each kind of server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reference_models import reference_folder
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    VERSION_FILE,
    GoldenCases,
    ModelManifest,
    VersionFacts,
    read,
    version_folders,
)

BASELINE_TASKS = ("image-classification", "text-classification", "text-embedding")
_BOUNDARY = "between"
FORM_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and its items.

    Attributes:
        folder: The version's folder.
        items: Raw files, or texts in UTF-8.
        baseline_graph: The graph that the baselines run; it takes float32 pictures if there is such a one.
    """

    name: str
    task: str
    folder: Path
    items: tuple[bytes, ...]
    baseline_graph: Path

    @property
    def is_text(self) -> bool:
        """Whether the items are texts."""
        return self.task.startswith("text-")

    def requests(self, **headers: object) -> list[bytes]:
        """Return requests for Kotae, one for each item.

        Args:
            headers: By name, with underscores for hyphens.
        """
        if self.task == "text-embedding":
            bodies = [json.dumps({"input": item.decode()}).encode() for item in self.items]
            path, kind = f"/v1/embeddings?model={self.name}", "application/json"
        else:
            bodies, kind = list(self.items), "text/plain" if self.is_text else "application/octet-stream"
            path = f"/v1/{self.task}?model={self.name}"
        return [post(path, body, kind, headers) for body in bodies]

    def baseline_requests(self, **headers: object) -> list[bytes]:
        """Return requests for the baselines: a form with a file, or JSON with a text."""
        path = f"/predict/{self.name}"
        if self.is_text:
            bodies = [json.dumps({"text": item.decode()}).encode() for item in self.items]
            return [post(path, body, "application/json", headers) for body in bodies]
        return [post(path, form(item), FORM_TYPE, headers) for item in self.items]


def post(path: str, body: bytes, media_type: str, headers: Mapping[str, object]) -> bytes:
    """Return a POST request, head and body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    every = {"Host": "127.0.0.1", "Content-Type": media_type, **fields, "Content-Length": len(body)}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def form(*contents: bytes) -> bytes:
    """Return files as a multipart form of type `FORM_TYPE`."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="x.jpg"'
    boundary = b"--" + _BOUNDARY.encode()
    lines = []
    for content in contents:
        lines += [boundary, disposition, b"Content-Type: image/jpeg", b"", content]
    return b"\r\n".join([*lines, boundary + b"--", b""])


def reference_workload(name: str, *, small: bool = False) -> Workload:
    """Return the workload of a reference model."""
    root = reference_folder(small=small)
    folder = root / "models" / name / "1"
    payload_folder = root / "payloads" / name
    if (payload_folder / "texts.json").exists():
        items = tuple(text.encode() for text in json.loads((payload_folder / "texts.json").read_text()))
    else:
        items = tuple(path.read_bytes() for path in sorted(payload_folder.iterdir()))
    floats = root / "baseline" / f"{name}.onnx"
    graph = floats if floats.exists() else folder / "model.onnx"
    task = read(folder.parent / MANIFEST_FILE, ModelManifest).task
    return Workload(name, task, folder, items, graph)


def shipped_workloads(models: Path, tasks: Container[str] = BASELINE_TASKS) -> list[Workload]:
    """Return the shipped models, with their golden files as items.

    Args:
        models: The model repository.
        tasks: Only models of these tasks; by default those that the baselines can serve.
    """
    found = []
    for path in sorted(models.glob(f"*/{MANIFEST_FILE}")):
        manifest = read(path, ModelManifest)
        versions = version_folders(path.parent)
        if manifest.task not in tasks or not versions:
            continue
        folder = versions[0][1]
        cases = read(folder / GOLDEN_CASES_FILE, GoldenCases).cases
        items = tuple((folder / "golden" / case.file).read_bytes() for case in cases)
        graph = folder / read(folder / VERSION_FILE, VersionFacts).variants[0].file
        found.append(Workload(manifest.name, manifest.task, folder, items, graph))
    return found


@contextmanager
def repository_of(workloads: Sequence[Workload]) -> Iterator[Path]:
    """Yield a temporary folder with links to these models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workload in workloads:
            (folder / workload.name).symlink_to(workload.folder.parent)
        yield folder
