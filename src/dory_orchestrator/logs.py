"""Logging: one JSON object a line, or readable text on a terminal.

Whatever a request or an error brings into an event can neither break a line nor carry a
secret: control characters are escaped, long values are cut, and values under secret-like
names and passwords inside URLs are masked.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

EventDict = MutableMapping[str, Any]

_VALUE_CHARACTERS_MAX = 2_000
_TRACEBACK_CHARACTERS_MAX = 16_000
_SECRET_NAME = re.compile(r"token|secret|password|passwd|authorization|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
_BEARER = re.compile(r"(?i)\b(bearer)\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MASK = "***"


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send everything that is logged, by us or by libraries, to `stream` (standard error).

    `level` is debug, info, warn or error; `style` is json, text, or auto (text on a terminal).
    """
    stream = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and stream.isatty())
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The traceback becomes a string before `clean`, so that it is escaped like any other.
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_text:
        final += [clean, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    else:
        final += [structlog.processors.format_exc_info, clean, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=final)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel({"warn": "WARNING"}.get(level, level.upper()))
    # Below these levels the libraries tell of single requests and statements: a client could
    # fill the disk with them.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def clean(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: mask secrets and escape what could break a line."""
    return {
        _text(str(name), 200): _MASK
        if _SECRET_NAME.search(str(name)) and value not in (None, "")
        else value
        if name == "exc_info"
        else _clean(value, _TRACEBACK_CHARACTERS_MAX if name == "exception" else None)
        for name, value in event.items()
    }


def _clean(value: Any, characters_max: int | None = None) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return clean(None, "", value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return _text(str(value), characters_max or _VALUE_CHARACTERS_MAX)


def _text(text: str, characters_max: int) -> str:
    if len(text) > characters_max:
        text = f"{text[:characters_max]}… ({len(text)} characters)"
    text = _URL_PASSWORD.sub(rf"\1:{_MASK}@", text)
    text = _BEARER.sub(rf"\1 {_MASK}", text)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; events are short sentences, details go in as keywords."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
