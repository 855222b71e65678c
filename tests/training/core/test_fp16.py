"""fp16 graphs: what becomes float16, what stays fp32, and that answers stay what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import graphs
from service.engine.runtime.session import Device, Session
from training.core.fp16 import convert_to_fp16
from training.core.int8 import Batch, ancestors
from training.errors import ExportFailed

ENCODER = graphs.EncoderSize(layers=2, width=32, heads=2, inner=64, vocabulary=500, positions=64)
SAMPLES = 800  # of a sound
LOUD = 1_000.0  # the square of it is beyond float16


class Halved:
    """An fp32 graph and the float16 graph made of it."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        onnx.save(model, folder / "model.onnx")
        self.kept = convert_to_fp16(folder / "model.onnx", folder / "fp16.onnx")
        self.plain, self.half = (
            Session(folder / f"{name}.onnx", Device("cpu")) for name in ("model", "fp16")
        )
        self.graph = onnx.shape_inference.infer_shapes(onnx.load(folder / "fp16.onnx")).graph
        self.types = {value.name: value.type.tensor_type.elem_type for value in self.graph.value_info}
        self.types |= {weight.name: weight.data_type for weight in self.graph.initializer}

    def operators(self, element: int) -> list[str]:
        """Name the operators that take or give an element type."""
        return [
            node.op_type
            for node in self.graph.node
            if element in {self.types.get(name) for name in [*node.input, *node.output]}
            and node.op_type != "Cast"
        ]

    def both(self, batch: Batch) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        return self.plain.run(batch), self.half.run(batch)


def floats(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def weight(name: str, values: Any) -> onnx.TensorProto:
    kind = np.int64 if np.asarray(values).dtype.kind == "i" else np.float32
    return numpy_helper.from_array(np.asarray(values, kind), name)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tokens(items: int, length: int, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(1, ENCODER.vocabulary, (items, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def padded(batch: Batch, length: int) -> Batch:
    more = ((0, 0), (0, length - batch["input_ids"].shape[1]))
    return {name: np.pad(array, more) for name, array in batch.items()}


# --- pictures ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Halved:
    return Halved(tmp_path_factory.mktemp("pictures"), graphs.resnet18(size=32, width=8, classes=10))


def test_convolutions_are_float16_and_pixels_and_shares_stay_fp32(pictures: Halved) -> None:
    assert pictures.operators(TensorProto.FLOAT16).count("Conv") == 20
    assert pictures.kept.keys() >= {"Cast", "Sub", "Div", "Softmax"}
    assert not {"Sub", "Div", "Softmax"} & {*pictures.operators(TensorProto.FLOAT16)}
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0, TensorProto.INT64: 0}
    for values in pictures.graph.initializer:
        sizes[values.data_type] += int(np.prod(values.dims))
    assert sizes[TensorProto.FLOAT16] > 0.99 * sum(sizes.values())


@pytest.mark.parametrize("items", [1, 3])
def test_the_float16_network_answers_nearly_as_before(pictures: Halved, items: int) -> None:
    image = np.random.default_rng(items).integers(0, 256, (items, 32, 32, 3), dtype=np.uint8)
    assert (pictures.plain.inputs, pictures.plain.outputs) == (pictures.half.inputs, pictures.half.outputs)
    before, after = (outputs["probabilities"] for outputs in pictures.both({"image": image}))
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert np.abs(after - before).max() > 0  # it is another graph


# --- texts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Halved:
    return Halved(tmp_path_factory.mktemp("texts"), graphs.text_encoder(ENCODER))


def test_gelu_that_is_written_out_becomes_one_operator_before_it_becomes_float16(texts: Halved) -> None:
    halves = texts.operators(TensorProto.FLOAT16)
    assert "Erf" not in {node.op_type for node in texts.graph.node}
    assert sum(node.op_type == "Gelu" for node in texts.graph.node) == ENCODER.layers
    assert halves.count("MatMul") == 8 * ENCODER.layers
    assert texts.kept["ReduceL2"] == 1


def test_a_text_has_the_same_float16_answer_alone_and_beside_a_longer_one(texts: Halved) -> None:
    short = tokens(1, 7, seed=5)
    before, alone = (outputs["embedding"] for outputs in texts.both(short))
    np.testing.assert_allclose(alone, before, atol=3e-3)
    np.testing.assert_allclose(texts.half.run(padded(short, 40))["embedding"], alone, atol=1e-3)


@pytest.mark.parametrize("closed", [-1e9, float(np.finfo(np.float32).min)])
def test_masks_farther_than_float16_reaches_still_close(tmp_path: Path, closed: float) -> None:
    model = graphs.text_encoder(ENCODER)
    (far,) = [w for w in model.graph.initializer if not w.dims and numpy_helper.to_array(w) == -1e4]
    far.CopyFrom(weight(far.name, closed))
    halved = Halved(tmp_path, model)
    batch = padded(tokens(2, 9), 33)
    before, after = (outputs["embedding"] for outputs in halved.both(batch))
    np.testing.assert_allclose(after, before, atol=3e-3)
    assert min(numpy_helper.to_array(w).min(initial=0) for w in halved.graph.initializer) > -65504


def test_attention_that_is_written_out_becomes_one_operator(tmp_path: Path) -> None:
    model = graphs.text_encoder(ENCODER)
    (end,) = [n for n in model.graph.node if n.op_type == "Mul" and n.output[0] == bias_of(model.graph)]
    mask = [  # the way that BERT's exports have it
        helper.make_node("Unsqueeze", ["attention_mask", "first"], ["m1"]),
        helper.make_node("Unsqueeze", ["m1", "second"], ["m2"]),
        helper.make_node("Cast", ["m2"], ["m3"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "m3"], ["m4"]),
        helper.make_node("Mul", ["m4", "far"], [end.output[0]]),
    ]
    place = list(model.graph.node).index(end)
    model.graph.node.remove(end)
    for number, node in enumerate(mask):
        model.graph.node.insert(place + number, node)
    model.graph.initializer.extend(
        [weight("first", [1]), weight("second", [2]), weight("one", 1.0), weight("far", -1e4)]
    )
    halved = Halved(tmp_path, model)
    operators = [node.op_type for node in halved.graph.node]
    assert operators.count("Attention") == ENCODER.layers
    batch = padded(tokens(2, 9), 33)
    before, after = (outputs["embedding"] for outputs in halved.both(batch))
    np.testing.assert_allclose(after, before, atol=3e-3)


def bias_of(graph: onnx.GraphProto) -> str:
    """Name what is added to the scores of attention: the mask."""
    sources = {name: node for node in graph.node for name in node.output}
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    return str(sources[softmax.input[0]].input[1])


# --- sounds -----------------------------------------------------------------------------------


def sound_graph() -> onnx.ModelProto:
    """A front end of powers and their logarithm, a convolution over it, a mean over frames, a classifier."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "axis"], ["wave"]),  # [N, 1, T]
        helper.make_node("Conv", ["wave", "window"], ["spectrum"], strides=[20]),
        helper.make_node("Mul", ["spectrum", "spectrum"], ["power"]),
        helper.make_node("Add", ["power", "least"], ["some"]),
        helper.make_node("Log", ["some"], ["level"]),
        helper.make_node("Conv", ["level", "filter"], ["heard"]),
        helper.make_node("Relu", ["heard"], ["kept"]),
        helper.make_node("ReduceMean", ["kept", "last"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "classes"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    weights = [
        weight("axis", [1]),
        weight("last", [2]),
        weight("least", 1e-9),
        weight("window", random.normal(0, 1, (8, 1, 40))),
        weight("filter", random.normal(0, 0.1, (6, 8, 3))),
        weight("classes", random.normal(0, 0.5, (6, 4))),
    ]
    return model_of(nodes, [floats("audio", "N", "T")], [floats("probabilities", "N", 4)], weights)


def test_nothing_in_front_of_a_logarithm_was_ever_float16(tmp_path: Path) -> None:
    halved = Halved(tmp_path, sound_graph())
    sources = {name: node for node in halved.graph.node for name in node.output}
    (log,) = [node for node in halved.graph.node if node.op_type == "Log"]
    before = [node for node in halved.graph.node if node.name in {*ancestors([log], sources), log.name}]
    assert [node.op_type for node in before] == ["Unsqueeze", "Conv", "Mul", "Add", "Log"]
    assert {halved.types[node.output[0]] for node in before} == {TensorProto.FLOAT}
    assert halved.operators(TensorProto.FLOAT16) == ["Conv", "Relu"]
    loud = np.random.default_rng(1).normal(0, LOUD, (2, SAMPLES)).astype(np.float32)
    for audio in (loud, loud / 1e8, loud * 0):
        plain, half = (outputs["probabilities"] for outputs in halved.both({"audio": audio}))
        np.testing.assert_allclose(half, plain, atol=2e-3)


# --- detections -------------------------------------------------------------------------------


def detector_graph() -> onnx.ModelProto:
    """Two heads over 3000 places in a row: a peak's score, and its box around a place in pixels."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["row", "body"], ["seen"], pads=[1, 1]),
        helper.make_node("Relu", ["seen"], ["features"]),
        helper.make_node("Conv", ["features", "score"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["shares"]),
        helper.make_node("MaxPool", ["shares"], ["highest"], kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Equal", ["shares", "highest"], ["peak"]),
        helper.make_node("Where", ["peak", "shares", "none"], ["peaks"]),
        helper.make_node("Conv", ["features", "size"], ["sizes"]),
        helper.make_node("Exp", ["sizes"], ["widths"]),
        helper.make_node("Add", ["widths", "places"], ["ends"]),
        helper.make_node("TopK", ["peaks", "five"], ["scores", "best"], axis=2),
        helper.make_node("GatherElements", ["ends", "best"], ["boxes"], axis=2),
    ]
    weights = [
        weight("body", random.normal(0, 0.5, (4, 1, 3))),
        weight("score", random.normal(0, 0.5, (1, 4, 1))),
        weight("size", random.normal(0, 0.2, (1, 4, 1))),
        weight("none", -np.inf),
        weight("five", [5]),
        weight("places", np.arange(3000).reshape(1, 1, 3000) + 0.25),
    ]
    outputs = [floats("scores", "N", 1, 5), floats("boxes", "N", 1, 5)]
    return model_of(nodes, [floats("row", "N", 1, 3000)], outputs, weights)


def test_peaks_are_picked_and_boxes_placed_in_fp32(tmp_path: Path) -> None:
    halved = Halved(tmp_path, detector_graph())
    assert halved.operators(TensorProto.FLOAT16) == ["Conv", "Relu"]
    assert halved.kept["Conv"] == 2
    (none,) = [w for w in halved.graph.initializer if w.name == "none"]
    assert numpy_helper.to_array(none) == -np.inf  # behind the last layer nothing is cut
    row = np.random.default_rng(2).normal(0, 1, (2, 1, 3000)).astype(np.float32)
    plain, half = halved.both({"row": row})
    for name in ("scores", "boxes"):  # near ties may change places
        np.testing.assert_allclose(np.sort(half[name]), np.sort(plain[name]), atol=5e-3)


# --- ranges -----------------------------------------------------------------------------------


def test_a_mean_over_many_does_not_pass_through_a_sum_in_float16(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["rows", "layer"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "mask"], ["open"]),
        helper.make_node("ReduceSum", ["open", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Sub", ["mean", "least"], ["less"]),
        helper.make_node("MatMul", ["less", "end"], ["answer"]),
    ]
    weights = [
        *(weight("layer", np.full((2, 2), 50.0)), weight("end", np.eye(2))),
        *(weight("axis", [1]), weight("least", 1e-9)),
    ]
    inputs = [floats("rows", "N", "T", 2), floats("mask", "N", "T", 1)]
    halved = Halved(tmp_path, model_of(nodes, inputs, [floats("answer", "N", 2)], weights))
    assert halved.operators(TensorProto.FLOAT16) == ["MatMul", "Mul", "MatMul"]
    batch = {"rows": np.ones((1, 3000, 2), np.float32), "mask": np.ones((1, 3000, 1), np.float32)}
    np.testing.assert_allclose(halved.half.run(batch)["answer"], 100.0, rtol=1e-3)  # of a sum of 300,000


def test_a_constant_of_both_kinds_of_nodes_stays_exact_for_those_in_fp32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Div", ["pixels", "third"], ["given"]),
        helper.make_node("MatMul", ["given", "layer"], ["hidden"]),
        helper.make_node("Div", ["hidden", "third"], ["larger"]),
        helper.make_node("MatMul", ["larger", "layer"], ["again"]),
        helper.make_node("Exp", ["again"], ["answer"]),
    ]
    weights = [weight("third", 1 / 3), weight("layer", np.eye(2) / 8)]
    model = model_of(nodes, [floats("pixels", "N", 2)], [floats("answer", "N", 2)], weights)
    halved = Halved(tmp_path, model)
    constants = {w.name: numpy_helper.to_array(w) for w in halved.graph.initializer}
    assert constants["third_fp32"] == np.float32(1 / 3)
    assert constants["third"] == np.float16(1 / 3)
    plain, half = halved.both({"pixels": np.ones((1, 2), np.float32)})
    np.testing.assert_allclose(half["answer"], plain["answer"], rtol=2e-3)


def test_what_is_infinitely_far_stays_closed_and_finite(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["rows", "layer"], ["scores"]),
        helper.make_node("Cast", ["mask"], ["open"], to=TensorProto.BOOL),
        helper.make_node("Where", ["open", "scores", "far"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=1),
        helper.make_node("MatMul", ["shares", "layer"], ["answer"]),
    ]
    weights = [weight("layer", np.eye(3)), weight("far", -np.inf)]
    mask = helper.make_tensor_value_info("mask", TensorProto.INT64, ["N", 3])
    halved = Halved(
        tmp_path, model_of(nodes, [floats("rows", "N", 3), mask], [floats("answer", "N", 3)], weights)
    )
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    plain, half = halved.both({"rows": rows, "mask": np.array([[1, 1, 0], [0, 0, 0]])})
    np.testing.assert_allclose(half["answer"][0], plain["answer"][0], atol=1e-3)
    assert np.isnan(plain["answer"][1]).all()  # nothing is open
    assert np.isfinite(half["answer"]).all()


def test_a_graph_whose_branches_read_float16_is_refused(tmp_path: Path) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["hidden"], [f"{name}_value"])], name, [], [floats(f"{name}_value")]
        )
        for name, operator in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("MatMul", ["rows", "layer"], ["hidden"]),
        helper.make_node("ReduceMax", ["rows"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["any"], to=TensorProto.BOOL),
        helper.make_node("If", ["any"], ["chosen"], **branches),
        helper.make_node("MatMul", ["chosen", "layer"], ["answer"]),
    ]
    inputs, outputs = [floats("rows", "N", 2)], [floats("answer", "N", 2)]
    with pytest.raises(ExportFailed, match="cannot be converted to float16"):
        Halved(tmp_path, model_of(nodes, inputs, outputs, [weight("layer", np.eye(2))]))


def test_weights_in_constant_nodes_are_weights(tmp_path: Path) -> None:
    layer = helper.make_node("Constant", [], ["layer"], value=weight("", np.eye(2)))
    nodes = [layer, helper.make_node("MatMul", ["rows", "layer"], ["answer"])]
    model = model_of(nodes, [floats("rows", "N", 2)], [floats("answer", "N", 2)], [])
    halved = Halved(tmp_path, model)
    assert halved.operators(TensorProto.FLOAT16) == ["MatMul"]
    assert [spec.dtype for spec in (*halved.half.inputs, *halved.half.outputs)] == ["float32", "float32"]


def test_a_graph_without_a_layer_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["rows"], ["answer"])]
    model = model_of(nodes, [floats("rows", "N", 2)], [floats("answer", "N", 2)], [])
    with pytest.raises(ExportFailed, match="no layer"):
        Halved(tmp_path, model)
    assert not (tmp_path / "fp16.onnx").exists()
