"""Tiny text models, made without torch: bytes -> random vectors -> masked mean -> labels or an embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    Batching,
    GoldenCase,
    GoldenCases,
    ModelManifest,
    TextInput,
    write,
)
from service.tasks.classification import classify
from tests.tiny_models import finish_version

LABELS = ("da", "ja", "en")
SIZE = 16
MAX_TOKENS = 100
_GOLDEN_TEXTS = ("hello", "konnichiwa, world", "x")


def byte_tokenizer() -> Tokenizer:
    """One token a byte; token 0 is padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"[PAD]": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer


def table() -> NDArray[np.float32]:
    """f32 [257, SIZE]: a vector a token."""
    return np.random.default_rng(3).normal(0, 1, (257, SIZE)).astype(np.float32)


def weights() -> NDArray[np.float32]:
    """f32 [SIZE, 3]."""
    return np.random.default_rng(4).normal(0, 1, (SIZE, len(LABELS))).astype(np.float32)


def pooled(text: str) -> NDArray[np.float32]:
    """What the graph makes of one text before its last step: f32 [SIZE]."""
    ids = byte_tokenizer().encode(text).ids
    vector: NDArray[np.float32] = table()[ids].mean(axis=0)
    return vector


def embedding(text: str) -> NDArray[np.float32]:
    """What the embedding graph answers for one text alone."""
    vector = pooled(text)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def probabilities(text: str) -> NDArray[np.float32]:
    """What the classification graph answers for one text alone."""
    logits = pooled(text) @ weights()
    powers = np.exp(logits - logits.max())
    shares: NDArray[np.float32] = (powers / powers.sum()).astype(np.float32)
    return shares


def text_graph(output: str) -> onnx.ModelProto:
    """Gather, masked mean, then softmax of a linear layer or division by the length."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["vectors", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
    ]
    if output == "probabilities":
        nodes.append(helper.make_node("MatMul", ["pooled", "weights"], ["logits"]))
        nodes.append(helper.make_node("Softmax", ["logits"], [output], axis=1))
    else:
        nodes.append(helper.make_node("ReduceL2", ["pooled", "middle"], ["length"], keepdims=1))
        nodes.append(helper.make_node("Div", ["pooled", "length"], [output]))
    size = len(LABELS) if output == "probabilities" else SIZE
    graph = helper.make_graph(
        nodes,
        "tiny-text",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", size])],
        [
            numpy_helper.from_array(table(), "table"),
            numpy_helper.from_array(weights(), "weights"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "middle"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_text_model(
    repository: Path, name: str, task: str, *, unknown_below: float | None = None, **manifest: object
) -> Path:
    """Write a complete, valid model folder for `text-classification` or `text-embedding`."""
    folder = repository / name / "1"
    (folder / "golden").mkdir(parents=True)
    fields = {"batching": Batching(max_items=16, max_queue_items=4096), "deadline_seconds": 20.0, **manifest}
    write(folder.parent / MANIFEST_FILE, ModelManifest(name=name, task=task, **fields))
    output = "probabilities" if task == "text-classification" else "embedding"
    onnx.save(text_graph(output), folder / "model.onnx")
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    encodings = [tokenizer.encode(text).ids for text in _GOLDEN_TEXTS]
    longest = max(map(len, encodings))
    ids = np.array([row + [0] * (longest - len(row)) for row in encodings])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in encodings])
    answer = probabilities if output == "probabilities" else embedding
    expected = np.stack([answer(text) for text in _GOLDEN_TEXTS])
    write_golden_arrays(folder, {"input_ids": ids, "attention_mask": mask}, {output: expected})
    (folder / "golden" / "hello.txt").write_text("hello")
    if output == "probabilities":
        (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
        result = dict(classify(probabilities("hello"), LABELS, 3, unknown_below))
    else:
        result = {"embedding": embedding("hello").tolist()}
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(GoldenCase(file="hello.txt", answer=result),)))
    finish_version(
        folder,
        output=output,
        input=TextInput(max_tokens=MAX_TOKENS),
        labels="labels.txt" if output == "probabilities" else None,
        unknown_below=unknown_below,
    )
    return folder
