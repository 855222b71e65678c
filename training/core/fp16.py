"""Convert an fp32 graph to float16, without the parts that need the range or the accuracy of fp32.

Inputs and outputs keep their types. These nodes stay fp32, because they leave float16's range (6e-8 to 65504)
or need more accuracy: nodes before the first layer with weights (pixels, lengths, masks), everything before a
logarithm inside the graph (power spectra), the last convolutions or the classifier after a pooling, all nodes
after the last layer (softmax, boxes, peaks), and sums, powers and similar operators anywhere. A simple
operator keeps the type of its input, so fp32 continues until the next layer with weights.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model

from training.core.int8 import ancestors
from training.errors import ExportFailed

# Softmax and LayerNormalization are missing here: the runtime always computes them in fp32.
BLOCKED = frozenset(
    [
        *DEFAULT_OP_BLOCK_LIST,
        *("Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "Sqrt", "CumSum"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd"),
        *("ReduceSum", "ReduceSumSquare"),
        *("If", "Loop", "Scan"),
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization"),
    ]
)
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention")
_EXACT_AT_THE_END = ("Conv", "ConvTranspose", "Gemm")
_LARGEST_CONSTANT = (
    30_000.0  # largest mask value: with a score added it is finite in float16, and its exponential is 0
)


def convert_to_fp16(source: Path, target: Path) -> dict[str, int]:
    """Write the float16 graph of an fp32 one; inputs and outputs keep their types.

    Args:
        source: The fp32 graph.
        target: The file to write.

    Returns:
        Number of nodes with floats that stay fp32, by operator.

    Raises:
        ExportFailed: No node can be float16, or the graph cannot be converted.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    _constants_to_weights(model.graph)
    model = _fused(model)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    halves = choose_fp16_nodes(model.graph)
    if not halves:
        raise ExportFailed(f"{source.name} has no layer that could be float16")
    floats = _floats(model.graph)
    exact = [node for node in model.graph.node if node.name not in halves]
    kept = Counter(node.op_type for node in exact if not floats.isdisjoint([*node.input, *node.output]))
    _limit_constants(model.graph, halves)
    _part_constants(model.graph, halves)
    onnx.save(_converted(model, exact), target)
    try:
        onnx.checker.check_model(str(target), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"{source.name} cannot be converted to float16: {error}") from error
    return dict(sorted(kept.items()))


def _converted(model: onnx.ModelProto, exact: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = {weight.name for weight in model.graph.initializer}
    types = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(types)  # the library treats every weight named here as float16
    model = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,  # it knows no fused operators; types were inferred before
        op_block_list=[],
        node_block_list=[node.name for node in exact],
    )
    _join_fp32(model.graph)
    del model.graph.value_info[:]  # partly outdated after the conversion
    OnnxModel.graph_topological_sort(model.graph)  # the library appends its casts
    return model


def choose_fp16_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that become float16."""
    weights = {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}
    sources = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in _LAYERS and node.input[1] in weights]
    inner = ancestors(layers, sources)
    logarithms = [node for node in graph.node if node.op_type == "Log" and node.name in inner]
    front = ancestors(logarithms, sources)
    starts = {node.name for node in layers} - front
    last = {node.name for node in layers if node.op_type in _EXACT_AT_THE_END} - inner
    behind = {node.name for node in graph.node} - inner - starts
    tables = {node.name for node in graph.node if node.op_type == "Gather" and node.input[0] in weights}
    halves: set[str] = set()
    halved: set[str] = set()  # names of values
    for node in graph.node:
        if node.name in front | last | behind or node.op_type in BLOCKED or _divides(node, weights):
            continue
        if node.name in starts | tables or halved & set(node.input):
            halves.add(node.name)
            halved |= set(node.output)
    return halves


def _divides(node: onnx.NodeProto, weights: set[str]) -> bool:
    """Return whether a node divides by a computed value, such as the mean over a mask, or a norm."""
    return node.op_type == "Div" and node.input[1] not in weights


def _fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fuse attention, layer norms and GELU where they are written as single operators.

    Casts between these operators would prevent the runtime from fusing them. It finds other fusions itself.
    """
    options = FusionOptions("bert")
    options.use_raw_attention_mask()
    options.enable_shape_inference = False
    options.enable_skip_layer_norm = options.enable_embed_layer_norm = False
    options.enable_bias_gelu = options.enable_bias_skip_layer_norm = False
    options.enable_rotary_embeddings = options.enable_qordered_matmul = False
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # the library warns of every pattern that it does not find
    try:
        fused: onnx.ModelProto = optimize_model(
            model, "bert", optimization_options=options, opt_level=0
        ).model
    finally:
        log.setLevel(level)
    domains = {opset.domain for opset in fused.opset_import}
    for domain in sorted({node.domain for node in fused.graph.node} - domains - {"ai.onnx"}):
        fused.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return fused


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Replace nodes that return a constant tensor by initializers, so that there is one kind of constant."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = node.attribute[0]
        if value.name == "value":
            weight = graph.initializer.add()
            weight.CopyFrom(value.t)
            weight.name = node.output[0]
            graph.node.remove(node)


def _floats(graph: onnx.GraphProto) -> set[str]:
    """Return the names of fp32 values."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _limit_constants(graph: onnx.GraphProto, halves: set[str]) -> None:
    """Clip constants that would be infinite in float16, such as those that close a mask.

    Constants of nodes after the last layer and before a logarithm reach no float16 value and are not changed.
    """
    sources = {name: node for node in graph.node for name in node.output}
    chosen = [node for node in graph.node if node.name in halves]
    logarithms = [node for node in graph.node if node.op_type == "Log"]
    reaching = (halves | ancestors(chosen, sources)) - ancestors(logarithms, sources)
    names = {name for node in graph.node if node.name in reaching for name in node.input}
    for weight in graph.initializer:
        if weight.name in names and weight.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(weight)
            if np.abs(values).max(initial=0.0) > _LARGEST_CONSTANT:
                limited = np.clip(values, -_LARGEST_CONSTANT, _LARGEST_CONSTANT)
                weight.CopyFrom(numpy_helper.from_array(limited, weight.name))


def _part_constants(graph: onnx.GraphProto, halves: set[str]) -> None:
    """Copy constants that fp32 and float16 nodes share, so that each kind has its own."""
    used = {name for node in graph.node if node.name in halves for name in node.input}
    shared = {weight.name: weight for weight in graph.initializer if weight.name in used}
    copied: set[str] = set()
    for node in graph.node:
        if node.name in halves:
            continue
        for place, name in enumerate(node.input):
            if name in shared and shared[name].data_type == TensorProto.FLOAT:
                node.input[place] = f"{name}_fp32"
                copied.add(name)
    for name in sorted(copied):
        weight = graph.initializer.add()
        weight.CopyFrom(shared[name])
        weight.name = f"{name}_fp32"


def _join_fp32(graph: onnx.GraphProto) -> None:
    """Remove redundant casts that the library adds around fp32 nodes.

    The library casts a value again for every fp32 node that reads it, each time under the same name, and
    between two fp32 nodes it casts to float16 and back.
    """
    casts = [node for node in graph.node if node.op_type == "Cast"]
    first = {node.output[0]: node for node in reversed(casts)}
    narrowed = {
        node.output[0]: node.input[0]
        for node in casts
        if node.name.endswith("_cast_to_fp16_node") or node.name.startswith("graph_input_cast")
    }
    outputs = {output.name for output in graph.output}
    renamed: dict[str, str] = {}
    for node in casts:
        widens = node.input[0] in narrowed and node.attribute[0].i == TensorProto.FLOAT
        if widens:
            before, after = narrowed[node.input[0]], node.output[0]
            renamed |= {before: after} if after in outputs else {after: before}
        if widens or first[node.output[0]] is not node:
            graph.node.remove(node)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    read = {name for node in graph.node for name in node.input} | outputs
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]:
        graph.node.remove(node)
