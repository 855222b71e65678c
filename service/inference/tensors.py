"""Check tensors that a caller made itself: they skip decoding, and must fit the graph all the same."""

from __future__ import annotations

from service.errors import InvalidInput, TooLarge
from service.inference.request import Tensors
from service.repository.loader import Version
from service.repository.manifest import AudioInput, ImageInput, TextInput
from service.tasks import Decoded


def decode_tensors(tensors: Tensors, version: Version) -> Decoded:
    """Check the graph's inputs of one item.

    Args:
        tensors: By input name, without the batch axis.
        version: Whose graph takes them.

    Returns:
        The item for the queue: an image costs 1, all else its longest axis.

    Raises:
        InvalidInput: A name, dtype or shape is not what the graph takes.
        TooLarge: An axis is longer than the version allows.
    """
    wanted = version.task.inputs
    if tensors.keys() != wanted.keys():
        raise InvalidInput(f"the inputs are {', '.join(sorted(wanted))}, not {', '.join(sorted(tensors))}")
    for name, dtype in wanted.items():
        if tensors[name].dtype != dtype:
            raise InvalidInput(f"input {name} has dtype {tensors[name].dtype}; it must be {dtype}")
    assert version.facts is not None, "the version is ready"
    spec = version.facts.input
    if isinstance(spec, ImageInput):
        shape, expected = tensors["image"].shape, (spec.height, spec.width, spec.channels)
        if shape != expected:
            raise InvalidInput(f"input image has shape {list(shape)}; it must be {list(expected)}")
        return Decoded((tensors,), (1,))
    return Decoded((tensors,), (_checked_length(tensors, spec),))


def _checked_length(tensors: Tensors, spec: TextInput | AudioInput) -> int:
    """Return the length of the one axis of a text or a recording."""
    names = ("input_ids", "attention_mask") if isinstance(spec, TextInput) else ("audio",)
    most = spec.max_tokens if isinstance(spec, TextInput) else int(spec.max_seconds * spec.sample_rate)
    shape = tensors[names[0]].shape
    if len(shape) != 1 or not shape[0] or any(tensors[name].shape != shape for name in names):
        shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names)
        raise InvalidInput(f"each of {', '.join(names)} must have one axis of the same length, not {shapes}")
    if isinstance(spec, AudioInput) and (tensors["lengths"].shape != () or tensors["lengths"] != shape[0]):
        raise InvalidInput("input lengths must be the number of samples of this item, without axes")
    if shape[0] > most:
        raise TooLarge(f"input {names[0]} has length {shape[0]}; the limit is {most}")
    return int(shape[0])
