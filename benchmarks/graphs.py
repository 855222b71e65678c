"""Networks of well-known sizes with random weights, built node by node. Nothing is trained or downloaded.

The input is pixels as bytes, as in every model folder; `as_floats=True` builds the same network for the
baselines, with normalised float32 pictures as input. Weights are scaled so that activations keep their size.

Letters in shapes: `N` batch, `C` channels, `T` tokens, `D` width of the encoder, `H` heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures in 0..1, as torchvision's models expect them
DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """Size of a text encoder; by default that of MiniLM-L6 (6 layers of 384)."""

    layers: int = 6
    width: int = 384
    heads: int = 12
    inner: int = 1536
    vocabulary: int = 30522
    positions: int = 512


def tiny_image(*, as_floats: bool = False, classes: int = 10) -> onnx.ModelProto:
    """Build three small convolutions over 32 x 32 pixels: very little work, so that all other costs show."""
    graph = _Graph(seed=1)
    value = graph.image_input(32, as_floats)
    for inside, outside in ((3, 16), (16, 32), (32, 64)):
        value = graph.relu(graph.convolution(value, inside, outside, kernel=3, stride=2))
    return graph.classifier(value, 64, classes, image_size=32)


def resnet18(
    *, size: int = 224, width: int = 64, as_floats: bool = False, classes: int = 1000
) -> onnx.ModelProto:
    """Build ResNet-18 with its batch norms folded into the convolutions.

    He et al., "Deep residual learning for image recognition" (2015), table 1, column 18-layer.

    Args:
        size: Pixels a side.
        width: Channels of the first stage; 64 in the paper.
        as_floats: Take normalised f32 [N, 3, size, size] instead of u8 [N, size, size, 3].
        classes: Labels.
    """
    graph = _Graph(seed=2)
    value = graph.image_input(size, as_floats)
    value = graph.relu(graph.convolution(value, 3, width, kernel=7, stride=2))
    value = graph.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = width
    for stage in range(4):
        outside = width * 2**stage
        for block in range(2):
            stride = 2 if stage and not block else 1
            inner = graph.relu(graph.convolution(value, inside, outside, kernel=3, stride=stride))
            inner = graph.convolution(inner, outside, outside, kernel=3, gain=0.2)
            if inside != outside:
                value = graph.convolution(value, inside, outside, kernel=1, stride=stride)
            value = graph.relu(graph.node("Add", value, inner))
            inside = outside
    return graph.classifier(value, inside, classes, image_size=size)


def resnet50(*, size: int = 224, width: int = 64, classes: int = 1000) -> onnx.ModelProto:
    """Build ResNet-50 with its batch norms folded into the convolutions.

    He et al. (2015), table 1, column 50-layer, with the stride in the 3 × 3 convolution of a block, which is
    how benchmarks have it ("ResNet-50 v1.5").

    Args:
        size: Pixels a side.
        width: Channels of the first stage within its blocks; 64 in the paper.
        classes: Labels.
    """
    graph = _Graph(seed=4)
    value = graph.relu(graph.convolution(graph.image_input(size, False), 3, width, kernel=7, stride=2))
    value = graph.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = graph.relu(graph.convolution(value, inside, narrow, kernel=1))
            inner = graph.relu(graph.convolution(inner, narrow, narrow, kernel=3, stride=stride))
            inner = graph.convolution(inner, narrow, 4 * narrow, kernel=1, gain=0.2)
            if not block:
                value = graph.convolution(value, inside, 4 * narrow, kernel=1, stride=stride)
            value = graph.relu(graph.node("Add", value, inner))
            inside = 4 * narrow
    return graph.classifier(value, inside, classes, image_size=size)


def keywords(*, samples: int = 16000, width: int = 64, classes: int = 12) -> onnx.ModelProto:
    """Build a keyword spotter: a learnt front end, then four depthwise separable blocks.

    About the size of the small DS-CNN of Zhang et al., "Hello edge" (2017).

    Args:
        samples: Length of a recording; a second at 16 kHz.
        width: Channels of the blocks.
        classes: Labels.

    Returns:
        A graph from `audio` f32 [N, samples] to `probabilities` f32 [N, classes].
    """
    graph = _Graph(seed=5)
    graph.inputs.append(helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["N", samples]))
    wave = graph.node("Unsqueeze", "audio", graph.integers([1]))  # [N, 1, samples]
    filters = graph.random((40, 1, 400), math.sqrt(2 / 400))  # 25 ms windows, every 10 ms
    bands = graph.relu(graph.node("Conv", wave, filters, kernel_shape=[400], strides=[160]))
    value = graph.node("Unsqueeze", bands, graph.integers([1]))  # [N, 1, bands, frames]
    value = graph.relu(graph.convolution(value, 1, width, kernel=5, stride=2))
    for _ in range(4):
        weights = graph.random((width, 1, 3, 3), math.sqrt(2 / 9))
        value = graph.relu(
            graph.node("Conv", value, weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=width)
        )
        value = graph.relu(graph.convolution(value, width, width, kernel=1))
    return graph.classifier(value, width, classes, image_size=0)


def text_encoder(size: EncoderSize, *, as_exported: bool = False) -> onnx.ModelProto:
    """Build a BERT-like encoder with masked mean pooling and vectors of length 1.

    Args:
        size: Of the encoder.
        as_exported: Write the mask in the steps that exports of BERT have, so that ONNX Runtime's optimiser
            finds attention and puts it into one operator.
    """
    graph = _Graph(seed=3)
    for name in ("input_ids", "attention_mask"):
        graph.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]))
    mask = graph.node("Cast", "attention_mask", to=TensorProto.FLOAT)  # [N, T]
    width = size.width
    words = graph.node("Gather", graph.random((size.vocabulary, width), 0.5), "input_ids")  # [N, T, D]
    length = graph.node("Slice", graph.node("Shape", "input_ids"), *map(graph.integers, ([1], [2])))
    places = graph.random((size.positions, width), 0.5)
    value = graph.node("Add", words, graph.node("Slice", places, graph.integers([0]), length))
    value = graph.layer_norm(value, width)
    if as_exported:
        wide = graph.node("Unsqueeze", "attention_mask", graph.integers([1]))
        wide = graph.node("Unsqueeze", wide, graph.integers([2]))
        closed = graph.node("Sub", graph.number(1.0), graph.node("Cast", wide, to=TensorProto.FLOAT))
    else:
        closed = graph.node("Sub", graph.number(1.0), mask)
        closed = graph.node("Unsqueeze", closed, graph.integers([1, 2]))
    bias = graph.node("Mul", closed, graph.number(-1e4))
    for _ in range(size.layers):
        value = graph.layer_norm(graph.node("Add", value, graph.attention(value, bias, size)), width)
        inner = graph.gelu(graph.linear(value, width, size.inner))
        value = graph.layer_norm(graph.node("Add", value, graph.linear(inner, size.inner, width)), width)
    kept = graph.node("Mul", value, graph.node("Unsqueeze", mask, graph.integers([2])))
    count = graph.node("ReduceSum", mask, graph.integers([1]), keepdims=1)
    pooled = graph.node("Div", graph.node("ReduceSum", kept, graph.integers([1]), keepdims=0), count)
    norm = graph.node("ReduceL2", pooled, graph.integers([1]), keepdims=1)
    graph.node("Div", pooled, norm, output="embedding")
    return graph.model([helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])])


class _Graph:
    """Collects nodes and weights of a model. Methods return the name of their result."""

    def __init__(self, seed: int) -> None:
        self.inputs: list[onnx.ValueInfoProto] = []
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def random(self, shape: tuple[int, ...], deviation: float) -> str:
        return self.weight(self._random.standard_normal(shape, dtype=np.float32) * np.float32(deviation))

    def number(self, value: float) -> str:
        return self.weight(np.array(value, dtype=np.float32))

    def integers(self, values: list[int]) -> str:
        return self.weight(np.array(values, dtype=np.int64))

    def image_input(self, size: int, as_floats: bool) -> str:
        """Return normalised f32 [N, 3, size, size]."""
        shape: list[str | int | None] = ["N", 3, size, size] if as_floats else ["N", size, size, 3]
        kind = TensorProto.FLOAT if as_floats else TensorProto.UINT8
        self.inputs.append(helper.make_tensor_value_info("image", kind, shape))
        if as_floats:
            return "image"
        # Transposed first, because arithmetic on planes is ten times as fast as on triples.
        mean, deviation = (
            self.weight(np.array(v, dtype=np.float32).reshape(3, 1, 1) * 255) for v in (MEAN, DEVIATION)
        )
        planes = self.node("Transpose", "image", perm=[0, 3, 1, 2])
        pixels = self.node("Cast", planes, to=TensorProto.FLOAT)
        return self.node("Div", self.node("Sub", pixels, mean), deviation)

    def convolution(
        self, value: str, inside: int, outside: int, *, kernel: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        deviation = gain * math.sqrt(2 / (inside * kernel * kernel))
        weights = self.random((outside, inside, kernel, kernel), deviation)
        return self.node(
            "Conv",
            value,
            weights,
            self.random((outside,), 0.01),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def relu(self, value: str) -> str:
        return self.node("Relu", value)

    def linear(self, value: str, inside: int, outside: int) -> str:
        product = self.node("MatMul", value, self.random((inside, outside), math.sqrt(1 / inside)))
        return self.node("Add", product, self.random((outside,), 0.01))

    def layer_norm(self, value: str, width: int) -> str:
        scale, shift = np.ones(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
        weights = self.weight(scale), self.weight(shift)
        return self.node("LayerNormalization", value, *weights, axis=-1, epsilon=1e-12)

    def gelu(self, value: str) -> str:
        erf = self.node("Erf", self.node("Div", value, self.number(math.sqrt(2))))
        shifted = self.node("Add", erf, self.number(1.0))
        return self.node("Mul", self.node("Mul", value, shifted), self.number(0.5))

    def attention(self, value: str, bias: str, size: EncoderSize) -> str:
        """Add self-attention with a mask bias [N, 1, 1, T]."""
        width, heads = size.width, size.heads
        split = self.integers([0, 0, heads, width // heads])

        def by_head(order: list[int]) -> str:
            parts = self.node("Reshape", self.linear(value, width, width), split)  # [N, T, H, D/H]
            return self.node("Transpose", parts, perm=order)

        queries, keys, values = by_head([0, 2, 1, 3]), by_head([0, 2, 3, 1]), by_head([0, 2, 1, 3])
        scores = self.node(
            "Div", self.node("MatMul", queries, keys), self.number(math.sqrt(width / heads))
        )  # [N, H, T, T]
        shares = self.node("Softmax", self.node("Add", scores, bias), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", shares, values), perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", mixed, self.integers([0, 0, width])), width, width)

    def classifier(self, value: str, channels: int, classes: int, *, image_size: int) -> onnx.ModelProto:
        """Pool over the picture, then one linear layer and a softmax: `probabilities` f32 [N, classes]."""
        pooled = self.node("Flatten", self.node("GlobalAveragePool", value))
        self.node("Softmax", self.linear(pooled, channels, classes), output="probabilities", axis=1)
        shape: list[str | int | None] = ["N", classes]
        return self.model([helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)])

    def model(self, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "reference", self.inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="kotae")
        onnx.checker.check_model(model)
        return model
