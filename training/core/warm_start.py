"""Where a training starts that does not start from scratch: a checkpoint of ours, or a version of a model.

A version's graph calls its weights as the network does, but for what exporting did to two kinds of them: a
batch norm is folded into the convolution in front of it, and the matrix of a linear layer has lost its name.
Both are undone here, so that the network answers as the graph does.

Letters in shapes: `N` batch, `C` channels.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import onnx
import torch
from torch import nn

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks.audio.ctc_decoding import read_tokens
from service.tasks.classification import read_labels
from training.core.job import newest_version
from training.errors import DataRejected

_GRAPH = "graph."  # what a checkpoint puts before the names of the network's weights
_SETTLING_BATCHES = 8  # that norms are settled on
_FOLDED = ".weight_bias"  # what the exporter puts behind the name of a convolution that took a norm in
Batch = TypeVar("Batch")
_Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from.

    Attributes:
        path: Of the checkpoint or the version.
        weights: By the names that the network's `state_dict` has; a convolution that took a norm in has a
            bias `NAME.weight_bias` beside it.
        labels: What the last layer tells apart: the label texts, or the letters.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    labels: tuple[str, ...]


def open_start(path: Path) -> Start:
    """Read weights.

    Args:
        path: A checkpoint, a model folder, whose newest version is meant, or the folder of a version.

    Raises:
        DataRejected: It is none of these.
    """
    if path.is_file():
        return _of_checkpoint(path)
    version = path if (path / VERSION_FILE).is_file() else newest_version(path)
    if version is None:
        raise DataRejected(f"there is nothing to start from: {path} is no checkpoint and no model's folder")
    facts = read(version / VERSION_FILE, VersionFacts)
    plain = next((variant for variant in facts.variants if variant.precision == "fp32"), None)
    if plain is None:
        raise DataRejected(f"{version} has no fp32 variant to start from")
    if facts.transcription:
        labels = read_tokens(version / facts.transcription.tokens)
    else:
        labels = read_labels(version, facts) if facts.labels else ()
    return Start(version, _weights_of_graph(version / plain.file), labels)


def _of_checkpoint(path: Path) -> Start:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        told, weights = content["hyper_parameters"], content["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{path} is no checkpoint of kotae-train") from error
    own = {name.removeprefix(_GRAPH): value for name, value in weights.items() if name.startswith(_GRAPH)}
    return Start(path, own, tuple(told.get("classes") or told.get("tokens") or ()))


def _weights_of_graph(path: Path) -> dict[str, torch.Tensor]:
    """Read the constants of an ONNX file by name; the nameless matrix before `NAME.bias` is `NAME.weight`."""
    graph = onnx.load(path).graph
    weights = {
        constant.name: torch.from_numpy(onnx.numpy_helper.to_array(constant).copy())
        for constant in graph.initializer
    }
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
            matrix = products.get(product)
            if matrix in weights and bias in weights and bias.endswith(".bias"):
                weights.setdefault(f"{bias.removesuffix('.bias')}.weight", weights[matrix].T.contiguous())
    return weights


def take_weights(network: nn.Module, start: Start, labels: Sequence[str], head: str) -> str:
    """Take over the weights; the last layer's only where it tells the same apart.

    Args:
        network: Is changed.
        start: Where the weights come from.
        labels: What the network shall tell apart.
        head: Name of the last layer.

    Returns:
        What was done, for the user to read.

    Raises:
        DataRejected: The network is another, or of another size.
    """
    own = network.state_dict()
    anew = {name for name in own if name.startswith(f"{head}.")} if start.labels != tuple(labels) else set()
    given = {**start.weights, **_unfolded(network, start.weights)}
    for name, weight in own.items():
        if name in anew:
            continue
        if name not in given:
            raise DataRejected(f"{start.path} is of another kind or size of network: it has no {name}")
        if given[name].shape != weight.shape:
            raise DataRejected(
                f"{start.path} is of another size of network: {name} has the shape {list(given[name].shape)} "
                f"there and {list(weight.shape)} here; give the recipe the same size"
            )
    taken = {name: given[name] for name in own if name not in anew}
    network.load_state_dict(taken, strict=False)
    count = sum(weight.numel() for weight in taken.values())
    return f"starts with {count:,} weights of {start.path}" + (
        f"; its labels are others, so `{head}` is learnt anew" if anew else ""
    )


def _unfolded(network: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give norms that were folded away what makes them add the convolution's bias, and nothing else."""
    given = {}
    for convolution, name, norm in _norms(network):
        bias = weights.get(convolution + _FOLDED)
        if bias is None:
            continue
        given[f"{name}.weight"], given[f"{name}.bias"] = torch.ones_like(bias), bias
        given[f"{name}.running_mean"] = torch.zeros_like(bias)
        given[f"{name}.running_var"] = torch.full_like(bias, 1 - norm.eps)
        given[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    return given


def _norms(network: nn.Module) -> Iterator[tuple[str, str, _Norm]]:
    """Find each batch norm and the convolution before it by name: modules stand in order of use."""
    before = ""
    for name, module in network.named_modules():
        if isinstance(module, _Norm) and before:
            yield before, name, module
        before = name if isinstance(module, nn.Conv1d | nn.Conv2d) else ""


def settle_norms(network: nn.Module, batches: Iterable[Batch], run: Callable[[Batch], object]) -> None:
    """Measure what batch norms meet and let them say so; what the network answers stays the same.

    While learning, a norm uses the mean and deviation of its batch. Those that a folded norm once had are
    lost, so that without this the first step would see quite another network.

    Args:
        network: Is changed.
        batches: What it shall learn from; the first few are looked at.
        run: Runs it on a batch.
    """
    norms = [norm for _, _, norm in _norms(network)]
    sums = {norm: [torch.zeros(norm.num_features, dtype=torch.float64) for _ in range(2)] for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def count(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, _Norm), "only norms are listened to"
        rows = inputs[0].double().transpose(0, 1).flatten(1)  # [C, everything else]
        sums[norm][0] += rows.sum(dim=1)
        sums[norm][1] += rows.square().sum(dim=1)
        counts[norm] += rows.shape[1]

    hooks = [norm.register_forward_pre_hook(count) for norm in norms]
    learning = network.training
    network.eval()
    try:
        # Loaders draw numbers that a training without this does not.
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            for batch in islice(batches, _SETTLING_BATCHES):
                run(batch)
    finally:
        network.train(learning)
        for hook in hooks:
            hook.remove()
    for norm in norms:
        mean = sums[norm][0] / counts[norm]
        _restate(norm, mean, (sums[norm][1] / counts[norm] - mean.square()).clamp(min=0))


@torch.no_grad()
def _restate(norm: _Norm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    old_mean, old_variance = norm.running_mean, norm.running_var
    assert old_mean is not None, "batch norms here keep count"
    assert old_variance is not None, "batch norms here keep count"
    scale = norm.weight.double() / (old_variance.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() + (mean - old_mean.double()) * scale)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    old_mean.copy_(mean)
    old_variance.copy_(variance)
