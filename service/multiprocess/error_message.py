"""Errors as JSON: the class's name and the attributes, sent from the engine to a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import RequestError


def pack_error(error: RequestError) -> dict[str, object]:
    """Return an error as a JSON object."""
    return {"class": type(error).__name__, **vars(error)}


def unpack_error(fields: Mapping[str, Any]) -> RequestError:
    """Return the error that `pack_error` was given, of the same class.

    Raises:
        KeyError: There is no such class.
    """
    kind = _classes(RequestError)[fields["class"]]
    error = kind.__new__(kind, fields["message"])
    vars(error).update({name: value for name, value in fields.items() if name != "class"})
    return error


def _classes(kind: type[RequestError]) -> dict[str, type[RequestError]]:
    found = {kind.__name__: kind}
    for subclass in kind.__subclasses__():
        found |= _classes(subclass)
    return found
