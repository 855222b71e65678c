"""int8 graphs: what becomes int8, what stays float, and that answers stay what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import graphs
from service.engine.runtime.session import Device, Session
from training.core import int8
from training.core.int8 import Batch, choose_nodes, quantize_graph

ENCODER = graphs.EncoderSize(layers=2, width=32, heads=2, inner=64, vocabulary=500, positions=64)


def pixels(items: int, seed: int = 0) -> Batch:
    return {"image": np.random.default_rng(seed).integers(0, 256, (items, 32, 32, 3), dtype=np.uint8)}


def tokens(items: int, length: int, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(1, ENCODER.vocabulary, (items, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network and its int8 graph, beside each other."""
    folder = tmp_path_factory.mktemp("pictures")
    onnx.save(graphs.resnet18(size=32, width=8, classes=10), folder / "model.onnx")
    quantize_graph(folder / "model.onnx", folder / "int8.onnx", [pixels(1, seed) for seed in range(8)])
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text encoder and its int8 graph, beside each other."""
    folder = tmp_path_factory.mktemp("texts")
    onnx.save(graphs.text_encoder(ENCODER), folder / "model.onnx")
    batches = [tokens(1, length, length) for length in (2, 5, 9, 17, 33, 64)]
    quantize_graph(folder / "model.onnx", folder / "int8.onnx", batches)
    return folder


def test_every_convolution_has_int8_weights_and_softmax_stays_float(pictures: Path) -> None:
    graph = onnx.load(pictures / "int8.onnx").graph
    sources = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    assert len(convolutions) == 20
    for node in convolutions:
        weights = sources[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert kinds[weights.input[0]] == TensorProto.INT8
        assert sources[node.input[0]].op_type == "DequantizeLinear"
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    assert sources[softmax.input[0]].op_type != "DequantizeLinear"
    assert (pictures / "int8.onnx").stat().st_size < 0.5 * (pictures / "model.onnx").stat().st_size


@pytest.mark.parametrize("items", [1, 3])
def test_the_int8_network_answers_nearly_as_before(pictures: Path, items: int) -> None:
    plain, small = (Session(pictures / name, Device("cpu")) for name in ("model.onnx", "int8.onnx"))
    assert (plain.inputs, plain.outputs) == (small.inputs, small.outputs)
    batch = pixels(items, seed=99)
    before, after = (session.run(batch)["probabilities"] for session in (plain, small))
    np.testing.assert_allclose(after, before, atol=0.05)
    assert np.abs(after - before).max() > 0  # it is another graph


def test_a_picture_has_the_same_int8_answer_alone_and_in_a_batch(pictures: Path) -> None:
    session = Session(pictures / "int8.onnx", Device("cpu"))
    batch = pixels(5, seed=7)["image"]
    together = session.run({"image": batch})["probabilities"]
    alone = np.concatenate([session.run({"image": batch[i : i + 1]})["probabilities"] for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_of_an_encoder_only_products_with_weights_become_int8(texts: Path) -> None:
    graph = onnx.load(texts / "int8.onnx").graph
    sources = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    halves = [
        [sources[name].op_type == "DequantizeLinear" for name in node.input if name in sources]
        for node in products
    ]
    assert halves.count([True, True]) == 6 * ENCODER.layers  # q, k, v, out, and the two of the feed-forward
    assert halves.count([False, False]) == 2 * ENCODER.layers  # attention's own


def test_a_text_has_the_same_int8_answer_alone_and_beside_a_longer_one(texts: Path) -> None:
    session = Session(texts / "int8.onnx", Device("cpu"))
    short = tokens(1, 7, seed=5)
    alone = session.run(short)["embedding"]
    padded = tokens(2, 40, seed=6)
    for name, array in short.items():
        padded[name][0] = 0
        padded[name][0, :7] = array[0]
    np.testing.assert_allclose(session.run(padded)["embedding"][:1], alone, atol=1e-5)
    plain = Session(texts / "model.onnx", Device("cpu")).run(short)["embedding"]
    assert (alone * plain).sum() > 0.98  # vectors of length 1


def test_what_a_logarithm_is_taken_of_and_what_is_last_stay_float() -> None:
    values = np.ones((4, 8, 3), np.float32)
    weights = [numpy_helper.from_array(values, name) for name in ("front", "behind", "last")]
    nodes = [
        helper.make_node("Conv", ["sound", "front"], ["power"], name="front-conv"),
        helper.make_node("Log", ["power"], ["level"], name="log"),
        helper.make_node("Conv", ["level", "behind"], ["heard"], name="behind-conv"),
        helper.make_node("Relu", ["heard"], ["kept"], name="relu"),
        helper.make_node("Relu", ["level"], ["other"], name="other-relu"),
        helper.make_node("Add", ["kept", "heard"], ["sum"], name="add"),
        helper.make_node("Add", ["kept", "level"], ["mixed"], name="mixed-add"),
        helper.make_node("Conv", ["sum", "last"], ["scores"], name="last-conv"),
        helper.make_node("Sigmoid", ["scores"], ["shares"], name="sigmoid"),
    ]
    graph = helper.make_graph(nodes, "sounds", [], [], weights)
    assert choose_nodes(graph) == ["behind-conv", "relu", "add"]


def test_wide_constants_change_no_answer(tmp_path: Path) -> None:
    onnx.save(graphs.tiny_image(), tmp_path / "model.onnx")
    int8._prepare(tmp_path / "model.onnx", tmp_path / "wide.onnx")
    graph = onnx.load(tmp_path / "wide.onnx").graph
    assert [w.dims[-1] for w in graph.initializer if w.name.endswith("_wide")] == [32, 32]
    batch = pixels(3)
    before, after = (
        Session(tmp_path / name, Device("cpu")).run(batch)["probabilities"]
        for name in ("model.onnx", "wide.onnx")
    )
    np.testing.assert_array_equal(before, after)
