"""API keys and their scopes, checked before anything else of a request.

A key is 256 random bits, so its plain SHA-256 is safe at rest. It is sent as `Authorization: Bearer …` or
`X-API-Key`. The keys file is read again when it changes. Probes and the documentation need no key.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, NotFound, RequestError, StartFailed, Unauthorized
from service.http.context import RequestContext, context_of
from service.http.errors import render_for
from service.settings import Settings

KeyScope = Literal["infer", "admin", "metrics"]

_OPEN_PATHS = frozenset(("/healthz", "/readyz", "/", "/docs", "/openapi.json"))
_OPEN_PREFIX = "/docs/assets/"
_PROBES = frozenset(("/healthz", "/readyz"))

_log = logging.getLogger(__name__)


class Key(BaseModel):
    """One entry of the keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1)]


class _KeysDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()


class Keys:
    """The keys of one file.

    Raises:
        StartFailed: The file cannot be read or breaks its form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_hash: dict[str, Key] = {}
        self._seen: tuple[int, ...] = ()
        self._load()

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret; None if it is unknown."""
        return self._by_hash.get(_hash(secret))

    def reload_if_changed(self) -> None:
        """Read the file again if it has changed; an invalid file changes nothing."""
        try:
            if self._fingerprint() != self._seen:
                self._load()
                _log.info("read %d API keys again", len(self._by_hash))
        except (StartFailed, OSError) as error:
            _log.error("the keys in force stay: %s", error)

    def _load(self) -> None:
        try:
            self._seen = self._fingerprint()
            document = _read(self._path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise StartFailed(f"keys file {self._path}: {' '.join(str(error).split())}") from error
        self._by_hash = {key.hash: key for key in document.keys}

    def _fingerprint(self) -> tuple[int, ...]:
        facts = self._path.stat()
        return facts.st_mtime_ns, facts.st_size, facts.st_ino


def open_keys(settings: Settings) -> Keys | None:
    """Return the keys, if keys are required.

    Returns:
        None where no key is needed.

    Raises:
        StartFailed: Keys are required and there is no file of them.
    """
    required = settings.auth == "required" or (settings.auth == "auto" and not _is_loopback(settings.host))
    if not required:
        return None
    if settings.keys_file is None:
        raise StartFailed(
            f"listening on {settings.host} needs API keys: name their file in KOTAE_KEYS_FILE "
            "(`kotae keys` makes one), or say KOTAE_AUTH=off if something in front checks callers"
        )
    return Keys(settings.keys_file)


def add_key(path: Path, name: str, scopes: tuple[str, ...]) -> str:
    """Make a key and add its hash to a keys file.

    Returns:
        The key, which is stored nowhere.

    Raises:
        StartFailed: The file or a scope is wrong.
    """
    secret = f"kotae_{secrets.token_urlsafe(32)}"
    try:
        known = _read(path).keys if path.exists() else ()
        added = Key.model_validate({"name": name, "hash": _hash(secret), "scopes": scopes})
        document = _KeysDocument(keys=(*known, added)).model_dump(mode="json")
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise StartFailed(f"keys file {path}: {' '.join(str(error).split())}") from error
    return secret


class Authentication:
    """Decides whether a request may go on: the right port, then the right key.

    Args:
        keys: None where no key is needed.
        operations_port: Returns the port that alone answers `/metrics` and `/admin`; None where the main
            one does.
    """

    def __init__(self, keys: Keys | None, operations_port: Callable[[], int | None]) -> None:
        self._keys = keys
        self._operations_port = operations_port

    def check(self, path: str, port: int, context: RequestContext) -> None:
        """Check one request, and note the name of its key.

        Raises:
            NotFound: The path is not answered on this port.
            Unauthorized, Forbidden: The key is missing, unknown or lacks the scope.
        """
        operations_port = self._operations_port()
        if operations_port is not None and path not in _PROBES:
            is_operation = needed_scope(path) in ("admin", "metrics")
            if (port == operations_port) != is_operation:
                raise NotFound(f"there is no {path} on this port")
        if self._keys is not None:
            _check_key(self._keys, path, context)


class AuthenticationMiddleware:
    """Plain ASGI middleware that asks `Authentication`."""

    def __init__(self, app: ASGIApp, authentication: Authentication) -> None:
        self._app = app
        self._authentication = authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or answer it with its refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        try:
            self._authentication.check(scope["path"], scope["server"][1], context)
        except RequestError as error:
            await render_for(context, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _check_key(keys: Keys, path: str, context: RequestContext) -> None:
    needed = needed_scope(path)
    if needed is None:
        return
    secret = _secret_of(context.headers)
    if secret is None:
        raise Unauthorized("send an API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`")
    key = keys.find(secret)
    if key is None:
        raise Unauthorized("this API key is not known here")
    context.key = key.name
    if needed not in key.scopes:
        raise Forbidden(f"this API key lacks the scope {needed}")


def needed_scope(path: str) -> KeyScope | None:
    """Return the scope that a path needs; None for probes and documentation."""
    if path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX):
        return None
    if path == "/metrics":
        return "metrics"
    return "admin" if path == "/admin" or path.startswith("/admin/") else "infer"


def _secret_of(headers: Mapping[bytes, bytes]) -> str | None:
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    key = headers.get(b"x-api-key")
    return None if key is None else key.decode("latin-1")


def _read(path: Path) -> _KeysDocument:
    return _KeysDocument.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def _hash(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
