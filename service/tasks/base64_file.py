"""Files inside JSON: base64 text, with or without a `data:` prefix."""

from __future__ import annotations

import base64
import binascii

from service.errors import InvalidInput


def decode_base64_file(value: object, kind: str) -> bytes:
    """Return the bytes of a base64 file in a JSON value.

    Args:
        value: The JSON value.
        kind: What the file must be, for the error message, such as `an image file`.

    Raises:
        InvalidInput: The value is no string or is not base64.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"must be {kind} as a base64 string")
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"is not base64: {error}") from error
