"""Read parameters from the query, the body and the headers of a request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError

from service.engine.queue.pending_request import DEFAULT_PRIORITY
from service.errors import InvalidInput, ValidationFailed


def read_query(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Collect the query's parameters.

    Raises:
        InvalidInput: One of them stands there twice with different values.
    """
    query: dict[str, str] = {}
    for name, value in pairs:
        if query.setdefault(name, value) != value:
            raise InvalidInput(f"{name} stands in the query twice, with different values", param=name)
    return query


def parse_parameters(
    query: Mapping[str, str], given: Mapping[str, object], parameters: type[BaseModel]
) -> tuple[str | None, str | None, BaseModel]:
    """Merge the parameters of the query and of the body.

    Args:
        query: From the query.
        given: From the body.
        parameters: The class of what is beside the model and its version.

    Returns:
        The model's name, its version, and the parameters.

    Raises:
        InvalidInput: One parameter stands in both places with different values.
        ValidationFailed: A parameter is unknown or out of range.
    """
    for name in query.keys() & given.keys():
        if query[name].lower() != str(given[name]).lower():
            raise InvalidInput(
                f"{name} is {query[name]!r} in the query but {given[name]!r} in the body", param=name
            )
    merged = {**given, **query}
    model, version = (_text(merged.pop(name, None), name) for name in ("model", "version"))
    try:
        return model, version, parameters.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(["model", "version", *parameters.model_fields])
            raise ValidationFailed(f"there is no parameter {name}; there are {known}", param=name) from error
        raise ValidationFailed(f"{name}: {first['msg']}", param=name) from error


def parse_timeout(header: bytes | None) -> float | None:
    """Read `X-Timeout-Ms`.

    Returns:
        Seconds; None where there is no such header.

    Raises:
        ValidationFailed: Not a positive number.
    """
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < 86_400_000:
        raise ValidationFailed("X-Timeout-Ms must be a positive number of milliseconds", param="X-Timeout-Ms")
    return milliseconds / 1000


def parse_priority(header: bytes | None) -> int:
    """Read `X-Priority`.

    Returns:
        1 is the highest. The default where there is no header, and for 0, as in the Open Inference Protocol.

    Raises:
        ValidationFailed: Not a whole number, or negative.
    """
    if header is None:
        return DEFAULT_PRIORITY
    if not (header.isdigit() and len(header) < 10):
        raise ValidationFailed("X-Priority must be a whole number, 1 the highest", param="X-Priority")
    return int(header) or DEFAULT_PRIORITY


def _text(value: object, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    raise ValidationFailed(f"{name} must be a text", param=name)
