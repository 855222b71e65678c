"""Parse a body into raw items and parameters: raw file, multipart or JSON. Safe in any thread."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from service.errors import InvalidInput, RequestError, TooLarge, ValidationFailed
from service.tasks import Task
from service.tasks.task import Raw

_UNDECLARED = ("", "application/octet-stream", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """The content of a request.

    Attributes:
        raws: The raw items, in order.
        declared_types: The media type that the client named for each, empty where it named none.
        parameters: By name, from JSON or form fields.
    """

    raws: tuple[Raw, ...]
    declared_types: tuple[str, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)


def media_type(content_type: str) -> str:
    """Return the type without parameters, in lower case; empty if it says nothing about the bytes."""
    kind = content_type.partition(";")[0].strip().lower()
    return "" if kind in _UNDECLARED else kind


def is_enveloped(content_type: str) -> bool:
    """Return whether the body is JSON or multipart; any other body is one raw item."""
    kind = media_type(content_type)
    return _is_json(kind) or kind == "multipart/form-data"


def parse_body(body: bytes, content_type: str, task: type[Task], max_items: int) -> ParsedBody:
    """Return the items and parameters of a body.

    Raises:
        InvalidInput: Empty, not JSON, not multipart, or without items.
        ValidationFailed: A JSON key that does not exist.
        TooLarge: More items than allowed.
    """
    kind = media_type(content_type)
    if not body:
        raise InvalidInput(f"the body is empty; send {task.media_type}, multipart or JSON")
    if _is_json(kind):
        return _parse_json(body, task, max_items)
    if kind == "multipart/form-data":
        return _parse_multipart(body, content_type, max_items)
    return ParsedBody((body,), (kind,))


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def read_json_object(body: bytes, fields: Collection[str], required: str) -> dict[str, Any]:
    """Read a JSON object that has nothing but the fields it may have.

    Raises:
        InvalidInput: Not JSON, or not an object.
        ValidationFailed: A field does not exist, or the required one is missing.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f'the body must be an object such as {{"{required}": [...]}}')
    if unknown := sorted(content.keys() - set(fields)):
        raise ValidationFailed(
            f"there is no field {unknown[0]}; there are {', '.join(fields)}", param=unknown[0]
        )
    if required not in content:
        raise ValidationFailed(f"the field {required} is missing", param=required)
    return content


def read_json_items(value: object, task: type[Task], max_items: int, param: str) -> tuple[Raw, ...]:
    """Turn one JSON item or a list of them into raw items.

    Raises:
        InvalidInput: There is none, or one is not what the task takes.
        TooLarge: There are more than allowed.
    """
    values = value if isinstance(value, list) else [value]
    _check_count(len(values), max_items, param)
    raws = []
    for index, item in enumerate(values):
        try:
            raws.append(task.from_json(item))
        except RequestError as error:
            raise error.at_item(index) from error
    return tuple(raws)


def _parse_json(body: bytes, task: type[Task], max_items: int) -> ParsedBody:
    content = read_json_object(body, ("inputs", "parameters"), required="inputs")
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValidationFailed("parameters must be an object", param="parameters")
    raws = read_json_items(content["inputs"], task, max_items, "inputs")
    return ParsedBody(raws, ("",) * len(raws), parameters)


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart form.

    Attributes:
        files: The contents of its `file` fields, in order; `declared_types` has their media types.
        fields: Names and values of the others, in order; a name may stand there twice.
    """

    files: tuple[bytes, ...]
    declared_types: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


def read_form(body: bytes, content_type: str) -> Form:
    """Read a multipart form whose files stand in the field `file`.

    Raises:
        InvalidInput: It is damaged or ends early.
        ValidationFailed: A file stands in another field.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInput("the multipart body names no boundary in its Content-Type")
    files: list[File] = []
    fields: list[Field] = []
    ended: list[bool] = []
    try:
        parser = FormParser(
            "multipart/form-data",
            on_field=fields.append,
            on_file=files.append,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": math.inf},  # the body is in memory already; never use a disk
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the multipart body is damaged: {error}") from error
    if not ended:
        raise InvalidInput("the multipart body ends before its last boundary")
    if wrong := [file.field_name for file in files if file.field_name != b"file"]:
        name = (wrong[0] or b"").decode(errors="replace")
        raise ValidationFailed(f"files belong in the field file, not {name!r}", param=name)
    return Form(
        tuple(_content(file) for file in files),
        tuple(media_type(file.content_type or "") for file in files),
        tuple((_decoded(field.field_name), _decoded(field.value)) for field in fields),
    )


def _parse_multipart(body: bytes, content_type: str, max_items: int) -> ParsedBody:
    form = read_form(body, content_type)
    _check_count(len(form.files), max_items, "inputs")
    return ParsedBody(form.files, form.declared_types, dict(form.fields))


def _decoded(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _content(file: File) -> bytes:
    file.file_object.seek(0)
    content: bytes = file.file_object.read()
    return content


def _check_count(count: int, max_items: int, param: str) -> None:
    if count == 0:
        raise InvalidInput("the request holds no item", param=param)
    if count > max_items:
        raise TooLarge(f"the request holds {count} items; the limit is {max_items}", param=param)
