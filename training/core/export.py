"""Export: a checkpoint -> an ONNX graph that is proven to answer as the network does.

The graph takes raw pixels and gives final probabilities; names and dtypes come from the task's class,
so that the service and the graph cannot disagree. `version_folder.py` puts the graph into a model folder.

Letters in shapes: `N` batch, `H` height, `W` width, `C` channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from service.engine.runtime.session import Device, Session
from service.repository.manifest import ImageInput, TaskName
from service.tasks import TASKS
from training.errors import ExportFailed
from training.networks.resnet import PictureClassifier

OPSET = 20
TOLERANCE = 1e-4
EXPORT_BATCH = 2
PARITY_BATCHES = (1, 3, 17)  # none is the exporting one


def export_graph(network: PictureClassifier, task: TaskName, spec: ImageInput, path: Path) -> None:
    """Write the whole network, pixels to probabilities, as one ONNX file.

    Args:
        network: In evaluation mode.
        task: Whose class names the inputs and outputs.
        spec: Size of the input.
        path: The file to write.
    """
    example = torch.zeros((EXPORT_BATCH, spec.height, spec.width, spec.channels), dtype=torch.uint8)
    write_graph(network, task, (example,), ({0: torch.export.Dim("N", min=1)},), path)


def write_graph(
    network: nn.Module,
    task: TaskName,
    examples: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[dict[int, object], ...],
    path: Path,
) -> None:
    """Write a network as one ONNX file and check the file.

    Args:
        network: In evaluation mode.
        task: Whose class names the inputs and outputs.
        examples: One an input, in the task's order.
        dynamic_shapes: The dynamic axes of each.
        path: The file to write.
    """
    names = TASKS[task]
    with warnings.catch_warnings():
        # torch 2.13's own exporter still calls these deprecated names of its own and of onnxscript.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Two inputs of one shape share the names of its axes, which is what is wanted.
        warnings.filterwarnings("ignore", message="# The axis name: . will not be used")
        program = torch.onnx.export(
            network,
            examples,
            input_names=list(names.inputs),
            output_names=list(names.outputs),
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "the exporter returns what it made"
    _tell_apart(program.model.graph)
    _forget_where_from(program.model)
    program.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def _tell_apart(graph: Any) -> None:
    """Rename values inside the graph that are called as an output is: torch 2.13 does not see to that."""
    outputs = {output.name: output for output in graph.outputs}
    for node in graph:
        for value in node.outputs:
            if outputs.get(value.name, value) is not value:
                value.name = f"inner_{value.name}"


def _forget_where_from(model: Any) -> None:
    """Drop the exporter's notes on each node: they hold source lines and paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def check_parity(
    network: PictureClassifier, task: TaskName, path: Path, images: NDArray[np.uint8]
) -> dict[str, float]:
    """Compare ONNX Runtime with PyTorch at batch sizes other than the exporting one.

    Args:
        network: In evaluation mode.
        task: Whose class names the inputs and outputs.
        path: The ONNX file.
        images: u8 [N, H, W, C], pictures to compare on; taken round and round for larger batches.

    Returns:
        The largest absolute difference, by output name.

    Raises:
        ExportFailed: An output differs by more than the tolerance, or has another shape.
    """
    session = Session(path, Device("cpu"))
    (input_name,) = TASKS[task].inputs
    worst: dict[str, float] = {}
    for size in PARITY_BATCHES:
        batch = np.take(images, range(size), axis=0, mode="wrap")
        expected = run_network(network, task, batch)
        got = session.run({input_name: batch})
        for name, difference in differences(expected, got, f"batch size {size}").items():
            worst[name] = max(worst.get(name, 0.0), difference)
    return worst


def run_network(
    network: PictureClassifier, task: TaskName, images: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """Run PyTorch on u8 [N, H, W, C]; returns arrays by output name."""
    (output_name,) = TASKS[task].outputs
    with torch.inference_mode():
        return {output_name: network(torch.from_numpy(images)).numpy()}


def varied_images(pictures: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Put pictures that a network has never met beside real ones.

    Args:
        pictures: u8 [N, H, W, C].
        seed: Of the noise.

    Returns:
        u8 [N+5, H, W, C]: black, white, a ramp, a checkerboard and noise after the real ones.
    """
    shape = pictures.shape[1:]
    height, width, _ = shape
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape)
    checks = (np.indices((height, width)).sum(axis=0) % 2 * 255)[..., None]
    noise = np.random.default_rng(seed).integers(0, 256, shape)
    extremes = [np.zeros(shape), np.full(shape, 255), ramp, np.broadcast_to(checks, shape), noise]
    return np.concatenate([pictures, np.stack(extremes).astype(np.uint8)])


def differences(
    expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], where: str
) -> dict[str, float]:
    """Compare the outputs of an exported graph with PyTorch's.

    Args:
        expected: PyTorch's arrays, by output name.
        got: The graph's.
        where: The batch, to be named in an error.

    Returns:
        The largest absolute difference, by output name.

    Raises:
        ExportFailed: An output is missing, has another shape or differs by more than the tolerance.
    """
    worst = {}
    for name, wanted in expected.items():
        if name not in got:
            raise ExportFailed(f"the exported graph has no output {name}. Nothing was written")
        if got[name].shape != wanted.shape:
            raise ExportFailed(
                f"output {name} of the exported graph has shape {list(got[name].shape)} "
                f"where PyTorch gives {list(wanted.shape)}. Nothing was written"
            )
        worst[name] = float(np.abs(got[name].astype(np.float64) - wanted.astype(np.float64)).max())
        if not worst[name] <= TOLERANCE:
            raise ExportFailed(
                f"output {name} of the exported graph differs from PyTorch by {worst[name]:.3g} "
                f"at {where}; the tolerance is {TOLERANCE:g}. Nothing was written"
            )
    return worst
