"""Export a network as an ONNX graph and prove that the graph answers as the network does.

Names and dtypes of inputs and outputs come from the service's task class, so that service and graph agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from service.engine.runtime.session import Device, Session
from service.repository.golden import Run, write_golden_arrays
from service.repository.manifest import TaskName
from service.tasks import TASKS
from training.errors import ExportFailed

GRAPH_FILE = "model.onnx"
OPSET = 20
TOLERANCE = 1e-4
EXPORT_BATCH = 2
PARITY_BATCHES = (1, 3, 17)  # batch sizes of the comparison; the export itself uses another one

Arrays = Mapping[str, NDArray[Any]]
Compare = Callable[[Arrays, Arrays, str], float]


@dataclass(frozen=True, slots=True)
class ExportInputs:
    """Inputs for the export of a network and for its comparison with the graph.

    Attributes:
        examples: One tensor per input, in the order of the task's inputs.
        dynamic_shapes: The dynamic axes of each input.
        parity: Batches to compare on, each with its name for error messages.
        golden: The batch that is stored with PyTorch's outputs as golden arrays.
    """

    examples: tuple[torch.Tensor, ...]
    dynamic_shapes: tuple[dict[int, object], ...]
    parity: Sequence[tuple[str, Arrays]]
    golden: Arrays


def export_network(
    folder: Path, network: nn.Module, task: TaskName, inputs: ExportInputs, compare: Compare | None = None
) -> Run:
    """Write the graph and the golden arrays of a version.

    Args:
        folder: The version's folder.
        network: The network in evaluation mode.
        task: The task that names inputs and outputs.
        inputs: Inputs for export and comparison.
        compare: See `check_parity`.

    Returns:
        The function that runs the exported graph on the CPU.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does.
    """
    write_graph(network, task, inputs.examples, inputs.dynamic_shapes, folder / GRAPH_FILE)
    graph: Run = Session(folder / GRAPH_FILE, Device("cpu")).run
    reference = torch_run(network, task)
    check_parity(reference, graph, inputs.parity, compare)
    write_golden_arrays(folder, inputs.golden, reference(inputs.golden))
    return graph


def write_graph(
    network: nn.Module,
    task: TaskName,
    examples: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[dict[int, object], ...],
    path: Path,
) -> None:
    """Write a network as one ONNX file and check the file.

    Args:
        network: The network in evaluation mode.
        task: The task that names inputs and outputs.
        examples: One tensor per input, in the order of the task's inputs.
        dynamic_shapes: The dynamic axes of each input.
        path: The file to write.
    """
    names = TASKS[task]
    with warnings.catch_warnings():
        # torch 2.13's exporter calls deprecated names of itself and of onnxscript.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Two inputs of one shape share the names of their axes, as intended.
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
    assert program is not None, "the exporter returns the program"
    _rename_shadowing_values(program.model.graph)
    _remove_metadata(program.model)
    program.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def _rename_shadowing_values(graph: Any) -> None:
    """Rename inner values that have the name of an output; torch 2.13 does not prevent that."""
    outputs = {output.name: output for output in graph.outputs}
    for node in graph:
        for value in node.outputs:
            if outputs.get(value.name, value) is not value:
                value.name = f"inner_{value.name}"


def _remove_metadata(model: Any) -> None:
    """Remove the exporter's notes on each node: they contain source lines and paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def torch_run(network: nn.Module, task: TaskName) -> Run:
    """Return a function that runs PyTorch in place of the exported graph.

    Args:
        network: The network in evaluation mode.
        task: The task that names inputs and outputs.
    """
    names = TASKS[task]

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(inputs[name]) for name in names.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(names.outputs, outputs, strict=True)}

    return run


def check_parity(
    reference: Run, graph: Run, batches: Sequence[tuple[str, Arrays]], compare: Compare | None = None
) -> float:
    """Compare ONNX Runtime with PyTorch on several batches.

    Args:
        reference: Runs PyTorch.
        graph: Runs the exported graph.
        batches: Inputs, each with its name for error messages.
        compare: Takes PyTorch's outputs, the graph's outputs and the batch's name, and returns the largest
            absolute difference; None is `compare_outputs`.

    Returns:
        The largest of all differences.

    Raises:
        ExportFailed: See `compare_outputs`.
    """
    compare = compare or compare_outputs
    return max(compare(reference(inputs), graph(inputs), name) for name, inputs in batches)


def compare_outputs(expected: Arrays, got: Arrays, where: str) -> float:
    """Compare the outputs of an exported graph with PyTorch's.

    Args:
        expected: PyTorch's arrays, by output name.
        got: The graph's arrays.
        where: Name of the batch, for error messages.

    Returns:
        The largest absolute difference of all outputs.

    Raises:
        ExportFailed: An output is missing, has another shape or differs by more than the tolerance.
    """
    largest = 0.0
    for name, wanted in expected.items():
        if name not in got:
            raise ExportFailed(f"the exported graph has no output {name}. Nothing was written")
        if got[name].shape != wanted.shape:
            raise ExportFailed(
                f"output {name} of the exported graph has shape {list(got[name].shape)} "
                f"where PyTorch gives {list(wanted.shape)}. Nothing was written"
            )
        difference = float(np.abs(got[name].astype(np.float64) - wanted.astype(np.float64)).max())
        if not difference <= TOLERANCE:
            raise ExportFailed(
                f"output {name} of the exported graph differs from PyTorch by {difference:.3g} "
                f"at {where}; the tolerance is {TOLERANCE:g}. Nothing was written"
            )
        largest = max(largest, difference)
    return largest
