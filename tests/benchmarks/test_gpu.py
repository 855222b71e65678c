"""The GPU benchmark: its parts do what they say, and all of it runs on the CPU and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.gpu import asking, loads
from benchmarks.gpu.ceilings import largest_difference
from benchmarks.gpu.engine_load import engine, engine_rate
from benchmarks.gpu.model_folder import MODEL, write_choice, write_model
from benchmarks.gpu.networks import Network, build_networks
from benchmarks.gpu.plan import OutOfTime, Plan, divide, worker_counts
from benchmarks.gpu.results import Results
from benchmarks.gpu.usage import Cpu, Usage, metered
from benchmarks.gpu.ways import Bare, Unavailable, Way, latencies_ms
from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import decode_and_resize
from tests.service.test_imports import ROOT

_UNNEEDED = ["torch", "lightning", "sklearn", "matplotlib", "onnxscript"]
_BLOCKED = f"import sys\nsys.modules.update(dict.fromkeys({_UNNEEDED}))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def networks(folder: Path) -> dict[str, Network]:
    return build_networks(folder, small=True)


def plan(seconds_left: float, *, rounds: int = 5, seconds: float = 1.0) -> Plan:
    return Plan("cpu", True, rounds, seconds, (0,), (0,), (0,), time.monotonic() + seconds_left)


@pytest.mark.parametrize("name", ["resnet50", "minilm", "keywords"])
def test_every_way_that_a_machine_can_do_gives_the_answers_of_plain_fp32(
    networks: dict[str, Network], name: str
) -> None:
    network = networks[name]
    assert largest_difference(network, Way("cpu", "fp32")) < 1e-6
    assert 0 < largest_difference(network, Way("cpu", "fp16")) < 0.02
    halves = {w.data_type for w in onnx.load(network.paths["fp16"]).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in halves
    bare = Bare(network.paths["fp32"], Way("cpu", "fp32"), network.batch(2))
    assert bare.rate(0.01) > 0
    assert (latencies_ms(bare.run, 0.01) > 0).all()


def test_attention_is_one_operator_in_half_precision(networks: dict[str, Network]) -> None:
    nodes = onnx.load(networks["minilm"].paths["fp16"]).graph.node
    assert [node.op_type for node in nodes].count("Attention") == 1  # of one layer


def test_a_way_that_a_machine_cannot_do_says_why(networks: dict[str, Network]) -> None:
    network = networks["keywords"]
    with pytest.raises(Unavailable, match="CUDA graphs need CUDA"):
        Bare(network.paths["fp32"], Way("cpu", "fp32", graph=True), network.batch(1))
    with pytest.raises(Unavailable, match="does not load"):
        Bare(network.paths["fp32"].with_name("missing.onnx"), Way("cpu", "fp32"), network.batch(1))


def test_the_engine_answers_every_single_item(networks: dict[str, Network], folder: Path) -> None:
    write_model(folder, networks[MODEL], small=True)
    overrides = write_choice(folder, "fp16", 2)
    rows = networks[MODEL].batch(9)["image"]
    with engine(folder / "models", MODEL, "cpu", overrides) as queue:
        assert engine_rate(queue, rows, "image", in_flight=8, seconds=0.05) > 0
        with pytest.raises(AssertionError, match="equal items"):
            engine_rate(queue, rows, "image", in_flight=9, seconds=0.05)
        queue.close("no more")
        with pytest.raises(Exception, match="no more"):
            engine_rate(queue, rows, "image", in_flight=8, seconds=0.05)


def test_as_many_rounds_are_measured_as_the_time_allows() -> None:
    assert plan(100).measure(lambda: "a", lambda: "b") == [("a", "b")] * 5
    assert len(plan(3.0).measure(lambda: "a")) == 2
    with pytest.raises(OutOfTime):
        plan(1.0).measure(lambda: "a")


def test_a_quarter_of_the_cores_makes_the_load() -> None:
    assert divide(range(16)) == (tuple(range(12)), (12, 13, 14, 15))
    assert divide([3, 5]) == ((3,), (5,))
    assert divide([7]) == ((7,), (7,))
    assert worker_counts(12) == (6, 0, 12, 3)
    assert worker_counts(1) == (0, 1)


@pytest.mark.parametrize(
    ("usage", "limit"),
    [
        (Usage({"engine": Cpu(1, 0.9, 0.05)}, gpu=0.95), "the GPU"),
        (Usage({"load": Cpu(1, 3.0, 0.8), "engine": Cpu(1, 0.9, 0.1)}, gpu=0.5), "the load generator"),
        (Usage({"http": Cpu(8, 9.0, 2.0), "engine": Cpu(1, 0.5, 0.1)}), "all cores of the service"),
        (Usage({"http": Cpu(2, 1.0, 0.2), "engine": Cpu(1, 0.8, 0.15)}), "the engine's process"),
        (Usage({"http": Cpu(2, 1.6, 0.3), "engine": Cpu(1, 0.4, 0.1)}), "the HTTP workers"),
        (Usage({"service": Cpu(1, 0.8, 0.15)}), "the only process of the service"),
        (Usage({"service": Cpu(1, 0.3, 0.1)}), "nothing alone: it waits"),
    ],
)
def test_what_limits_is_what_was_busy(usage: Usage, limit: str) -> None:
    assert usage.limit(service_cores=12, load_cores=4) == limit
    assert limit in usage.text(12, 4)


def test_the_meter_tells_this_process_from_the_load() -> None:
    spin = "import time\nwhile time.process_time() < 0.1: pass"
    with metered(seconds=0.1) as usage:
        subprocess.run([sys.executable, "-c", spin], check=True)
    assert usage.cpu["load"].user + usage.cpu["load"].system > 0.5
    assert usage.cpu["service"].processes == 1


def test_a_picture_is_the_same_raw_in_a_tensor_and_in_a_file() -> None:
    pictures = asking.pixels(5, 8)
    requests = asking.raw_requests(pictures, 2, as_tensors=True)
    assert len(requests) == 2
    head, _, body = requests[1].partition(b"\r\n\r\n")
    lines = dict(line.split(": ") for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"POST /v2/models/resnet50/infer ")
    assert int(lines["Content-Length"]) == len(body)
    length = int(lines["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    raw = np.frombuffer(body[length:], dtype=np.uint8).reshape(tensor["shape"])
    assert tensor["parameters"]["binary_data_size"] == raw.nbytes
    np.testing.assert_array_equal(raw, pictures[2:4])
    file = asking.bitmap(pictures[0])
    spec = ImageInput(width=8, height=8)
    np.testing.assert_array_equal(decode_and_resize(file, spec, max_pixels=64).pixels, pictures[0])
    assert asking.raw_requests(pictures, 1, as_tensors=False)[0].endswith(file)
    assert file in asking.raw_requests(pictures, 2, as_tensors=False)[0]


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[bytes]
    status = 200

    def do_POST(self) -> None:
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[int, type[_Server]]]:
    handler = type("_Fresh", (_Server,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running.server_port, handler
        running.shutdown()
        thread.join()


def test_the_load_sends_all_requests(server: tuple[int, type[_Server]]) -> None:
    port, handler = server
    requests = [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" + bytes([65 + i]) for i in range(4)
    ]
    cores = sorted(os.sched_getaffinity(0))[-1:] * 2
    assert loads.closed_loops(port, requests, 4, 0.2, cores) > 0
    assert set(handler.seen) == {b"A", b"B", b"C", b"D"}
    handler.status = 503
    with pytest.raises(SystemExit, match="not every request was answered"):
        loads.closed_loops(port, requests, 2, 0.1, cores)


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", {"device": "cpu"}, quiet=True)
    results.add("Engine", "fp16", [2.0, 3.0, 4.0], "times", goal=2.5, note="a note")
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| fp16 | 3 times | 2 … 4 | ≥ 2.5 | median only | a note |" in text
    results.skip("Device", "TensorRT", "no such library")
    results.add("Engine", "fp32", [1.0], "times")
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]
    assert [(row["what"], row.get("median"), row.get("skipped")) for row in rows] == [
        ("fp16", 3.0, None),
        ("TensorRT", None, True),
        ("fp32", 1.0, None),
    ]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "skipped: no such library" in text
    assert text.count("## Engine") == 1
    (picture,) = results.draw()
    assert picture.read_bytes().startswith(b"\x89PNG")


def run_quickly(tmp_path: Path, *arguments: str, blocked: bool = False) -> tuple[str, dict[str, object]]:
    code = f"{_BLOCKED if blocked else ''}\nimport runpy; runpy.run_module('benchmarks.gpu', alter_sys=True)"
    code = code.replace("alter_sys=True", "run_name='__main__', alter_sys=True")
    done = subprocess.run(
        [sys.executable, "-c", code, "--quick", "--output", str(tmp_path / "out"), *arguments],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, object] = json.loads((tmp_path / "out" / "gpu.json").read_text())
    return done.stdout, content


def test_it_runs_without_torch_and_without_anything_else_that_serving_does_not_need(tmp_path: Path) -> None:
    output, content = run_quickly(
        tmp_path, "--device", "cpu", "--parts", "latency,device,engine", blocked=True
    )
    assert "gpu.md" in output
    parts = {row["part"] for row in content["rows"]}  # type: ignore[attr-defined]
    assert {"Latency, keywords", "Engine, single items"} <= parts
    assert not list((tmp_path / "out").glob("*.png"))  # drawn with matplotlib alone


def test_without_time_every_part_says_so(tmp_path: Path) -> None:
    _, content = run_quickly(tmp_path, "--device", "cpu", "--parts", "latency,http", "--minutes", "0")
    left_out = [row for row in content["rows"] if row["part"] == "Left out"]  # type: ignore[attr-defined]
    assert [(row["what"], row["note"]) for row in left_out] == [
        ("latency", "skipped: the time was over"),
        ("http", "skipped: the time was over"),
    ]


@pytest.mark.slow
def test_all_of_it_runs_on_the_cpu(tmp_path: Path) -> None:
    _check_all(tmp_path, "cpu")


@pytest.mark.gpu
def test_all_of_it_runs_on_a_gpu(tmp_path: Path) -> None:
    _check_all(tmp_path, "cuda")


def _check_all(tmp_path: Path, device: str) -> None:
    _, content = run_quickly(tmp_path, "--device", device)
    rows: list[dict[str, object]] = content["rows"]  # type: ignore[assignment]
    measured = {str(row["part"]) for row in rows if "skipped" not in row}
    assert {"Left out"}.isdisjoint(measured)
    for part in ("Answers", "Latency", "Device alone", "Engine", "HTTP"):
        assert any(found.startswith(part) for found in measured), part
    unequal = [row["what"] for row in rows if row.get("unit") == "of the tolerance" and row["met"] != "yes"]
    assert unequal == []
    assert (tmp_path / "out" / "gpu-rates.png").read_bytes().startswith(b"\x89PNG")
