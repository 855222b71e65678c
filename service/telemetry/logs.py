"""JSON logs: one object a line on standard output, one line a request. No payloads, no secrets."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; what is passed as `extra` becomes keys of it.

    Args:
        process: Which of several processes this one is; a key of every line unless empty.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, its own time included, on one line.

        A record with `lines` stands for several: what each of them has of its own is in its dictionary.
        """
        line = self._line(record)
        lines = line.pop("lines", None)
        if not isinstance(lines, list):
            return _dump(line)
        return "\n".join(_dump({**line, **own}) for own in lines)

    def _line(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            line["process"] = self._process
        if identity := request_id.get():
            line["request_id"] = identity
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return line


def _dump(line: dict[str, object]) -> str:
    try:
        return orjson.dumps(line, default=_text, option=_OPTIONS).decode()
    except TypeError:  # huge integers, lone surrogates, circles: rare, and no reason to lose a line
        safe = {key: _text(value).encode("utf-8", "backslashreplace").decode() for key, value in line.items()}
        return orjson.dumps(safe).decode()


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # whatever an object's own code raises, the line must come out
        return f"<{type(value).__name__}>"


def log_level() -> str:
    """Tell the least level that is logged."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_log_level(level: str) -> None:
    """Change the least level that is logged, at once."""
    logging.getLogger().setLevel(level.upper())


def configure_logging(level: str, process: str = "") -> None:
    """Send every log record of the process to standard output as JSON.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        process: Which of several processes this one is; empty where there is one.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(process))
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not in our lines
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)
    logging.captureWarnings(True)
    # What no line shows need not be found out for each: "Optimization" in the documentation of logging.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # our own request line replaces it
