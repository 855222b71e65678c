"""Static int8 quantization: convolutions and matrix products of an fp32 graph become int8.

Scales are found once, on given inputs, so that an item's answer does not depend on its batch. Weights have
one scale per channel, activations one per tensor. Nodes stay float if int8 gains nothing or loses too much:
attention's products of two activations, softmax, norms, the last convolutions, whose results would be rounded
to 256 levels, and everything before a logarithm.

Letters in shapes: `C` channels, `W` width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Batch = dict[str, NDArray[Any]]

_FEW_CHANNELS = 4
_PRODUCTS = ("Gemm", "MatMul")
_CARRIED = ("Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> Batch | None:
        return next(self._batches, None)


def quantize_graph(source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """Write the int8 graph of an fp32 one.

    Args:
        source: The fp32 graph.
        target: The file to write.
        batches: Inputs by name on which scales are found.
    """
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # the library logs advice that is followed here
    try:
        with TemporaryDirectory() as folder:
            named, prepared = Path(folder, "named.onnx"), Path(folder, "prepared.onnx")
            _prepare(source, named)
            # Symbolic shape inference fails on text graphs; the plain one is enough.
            quant_pre_process(str(named), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                nodes_to_quantize=choose_nodes(onnx.load(prepared).graph),
                per_channel=True,
                activation_type=QuantType.QUInt8,  # the fast combination with int8 weights on x86
                weight_type=QuantType.QInt8,
                # With a float output, product, bias and scale are one kernel.
                extra_options={"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
            )
    finally:
        log.setLevel(level)
    onnx.checker.check_model(str(target), full_check=True)


def choose_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that become int8."""
    weights = {weight.name for weight in graph.initializer}
    sources = {name: node for node in graph.node for name in node.output}
    heavy = [node for node in graph.node if node.op_type in ("Conv", *_PRODUCTS) and node.input[1] in weights]
    spared = ancestors([node for node in graph.node if node.op_type == "Log"], sources)
    spared |= {node.name for node in heavy if node.op_type == "Conv"} - ancestors(heavy, sources)
    names = {node.name for node in heavy}
    chosen: list[str] = []
    carried: set[str] = set()  # outputs of int8 nodes
    for node in graph.node:
        given = [name for name in node.input if name and name not in weights]
        if node.name in spared:
            continue
        if node.name in names or (node.op_type in _CARRIED and given and carried.issuperset(given)):
            chosen.append(node.name)
            carried |= set(node.output) if node.op_type not in _PRODUCTS else set()
    return chosen


def ancestors(nodes: list[onnx.NodeProto], sources: dict[str, onnx.NodeProto]) -> set[str]:
    """Return the names of all nodes from which some nodes are computed.

    Args:
        nodes: The nodes.
        sources: The node that computes a value, by the value's name.
    """
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        for name in waiting.pop().input:
            before = sources.get(name)
            if before is not None and before.name not in found:
                found.add(before.name)
                waiting.append(before)
    return found


def _prepare(source: Path, target: Path) -> None:
    """Copy a graph; give every node a name, and make constants wide."""
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    _widen_constants(model.graph)
    onnx.save(model, target)


def _widen_constants(graph: onnx.GraphProto) -> None:
    """Repeat means and deviations of channels, [C, 1, 1], along the rows of an image: [C, 1, W].

    int8 convolutions need channels last. The runtime then also moves the arithmetic before them there, where
    it is ten times as slow with constants of three numbers.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    widths = {value.name: _fixed_width(value) for value in graph.value_info}
    for node in graph.node:
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        width = widths.get(node.output[0])
        for place, name in enumerate(node.input):
            constant = weights.get(name)
            if (
                width is None
                or constant is None
                or list(constant.dims)[-2:] != [1, 1]
                or len(constant.dims) < 3
            ):
                continue
            values = numpy_helper.to_array(constant)
            wide = f"{node.name}_{place}_wide"
            repeated = np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:-1], width)))
            graph.initializer.append(numpy_helper.from_array(repeated, wide))
            node.input[place] = wide
    used = {name for node in graph.node for name in node.input}
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)


def _fixed_width(value: onnx.ValueInfoProto) -> int | None:
    """Return the width of an image [N, C, H, W] if it is fixed and there are few channels, else None."""
    sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]  # 0 if unknown
    few = len(sizes) == 4 and 0 < sizes[1] <= _FEW_CHANNELS and sizes[3] > 0
    return sizes[3] if few else None
