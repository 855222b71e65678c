"""Start a training from pretrained weights: from a checkpoint of `kotae-train` or a version of a model.

The weights in a version's graph have the names that they have in the network, with two exceptions: the
export folds a batch norm into the convolution before it, and it renames the matrix of a linear layer. Both
are undone here, so that the network answers as the graph does.

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

_GRAPH = "graph."  # prefix of the network's weights in a checkpoint
_CALIBRATION_BATCHES = 8  # for the statistics of batch norms
_FOLDED = ".weight_bias"  # suffix of the bias of a convolution with a folded norm
Batch = TypeVar("Batch")
_Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Pretrained weights.

    Attributes:
        path: The checkpoint or the version's folder.
        weights: Tensors by their names in the network's `state_dict`; a convolution with a folded norm also
            has a bias `NAME.weight_bias`.
        labels: What the last layer distinguishes: label texts or tokens.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    labels: tuple[str, ...]


def read_pretrained(path: Path) -> PretrainedWeights:
    """Read pretrained weights.

    Args:
        path: A checkpoint, a model folder, of which the newest version is read, or a version's folder.

    Raises:
        DataRejected: The path is none of these.
    """
    if path.is_file():
        return _read_checkpoint(path)
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
    return PretrainedWeights(version, _read_graph(version / plain.file), labels)


def _read_checkpoint(path: Path) -> PretrainedWeights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        parameters, weights = content["hyper_parameters"], content["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{path} is no checkpoint of kotae-train") from error
    own = {name.removeprefix(_GRAPH): value for name, value in weights.items() if name.startswith(_GRAPH)}
    return PretrainedWeights(path, own, tuple(parameters.get("classes") or parameters.get("tokens") or ()))


def _read_graph(path: Path) -> dict[str, torch.Tensor]:
    """Return the constants of an ONNX file by name; the matrix before `NAME.bias` becomes `NAME.weight`."""
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


def load_weights(network: nn.Module, pretrained: PretrainedWeights, labels: Sequence[str], head: str) -> str:
    """Load pretrained weights into a network; those of the last layer only if its labels are the same.

    Args:
        network: The network; it is changed.
        pretrained: The weights.
        labels: Labels of the network.
        head: Name of the last layer.

    Returns:
        A message for the user.

    Raises:
        DataRejected: The weights are of another network or another size.
    """
    own = network.state_dict()
    same_labels = pretrained.labels == tuple(labels)
    untrained = set() if same_labels else {name for name in own if name.startswith(f"{head}.")}
    given = {**pretrained.weights, **_unfold_norms(network, pretrained.weights)}
    for name, weight in own.items():
        if name in untrained:
            continue
        if name not in given:
            raise DataRejected(f"{pretrained.path} is of another kind or size of network: it has no {name}")
        if given[name].shape != weight.shape:
            raise DataRejected(
                f"{pretrained.path} is of another size of network: {name} has the shape "
                f"{list(given[name].shape)} there and {list(weight.shape)} here; "
                f"give the recipe the same size"
            )
    loaded = {name: given[name] for name in own if name not in untrained}
    network.load_state_dict(loaded, strict=False)
    count = sum(weight.numel() for weight in loaded.values())
    return f"starts with {count:,} weights of {pretrained.path}" + (
        f"; its labels differ, so `{head}` is trained from scratch" if untrained else ""
    )


def _unfold_norms(network: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights for folded norms, with which they only add the convolution's bias."""
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
    """Yield each batch norm with its name and the name of the convolution before it."""
    before = ""
    for name, module in network.named_modules():
        if isinstance(module, _Norm) and before:
            yield before, name, module
        before = name if isinstance(module, nn.Conv1d | nn.Conv2d) else ""


def recalibrate_norms(network: nn.Module, batches: Iterable[Batch], run: Callable[[Batch], object]) -> None:
    """Measure the running statistics of batch norms anew, without a change of what the network answers.

    In training, a norm uses the mean and variance of its batch. The export loses the statistics of folded
    norms. Without this function, the first training step would therefore run a very different network.

    Args:
        network: The network; it is changed.
        batches: Training batches, of which the first few are used.
        run: Runs the network on a batch.
    """
    norms = [norm for _, _, norm in _norms(network)]
    if not norms:
        return
    sums = {norm: [torch.zeros(norm.num_features, dtype=torch.float64) for _ in range(2)] for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def count(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, _Norm), "the hook is on norms only"
        rows = inputs[0].double().transpose(0, 1).flatten(1)  # [C, everything else]
        sums[norm][0] += rows.sum(dim=1)
        sums[norm][1] += rows.square().sum(dim=1)
        counts[norm] += rows.shape[1]

    hooks = [norm.register_forward_pre_hook(count) for norm in norms]
    was_training = network.training
    network.eval()
    try:
        # Loaders draw random numbers; a training without this function must get the same ones.
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            for batch in islice(batches, _CALIBRATION_BATCHES):
                run(batch)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    for norm in norms:
        mean = sums[norm][0] / counts[norm]
        _set_statistics(norm, mean, (sums[norm][1] / counts[norm] - mean.square()).clamp(min=0))


@torch.no_grad()
def _set_statistics(norm: _Norm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    old_mean, old_variance = norm.running_mean, norm.running_var
    assert old_mean is not None, "these norms track statistics"
    assert old_variance is not None, "these norms track statistics"
    scale = norm.weight.double() / (old_variance.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() + (mean - old_mean.double()) * scale)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    old_mean.copy_(mean)
    old_variance.copy_(variance)
