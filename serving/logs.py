"""Logs of every process: one JSON object a line, or readable lines on a terminal, with secrets taken out.

Redaction is by type first (`Secret` never shows), then by name (a field called `authorization` or `token`), then by
shape (a bearer token or a URL's password inside a string), because the first needs care by whoever writes the code and
the others do not.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from serving.secret import REDACTED, Secret

_SECRET_NAMES = re.compile(
    r"(?i)(^|[_\-.])(authorization|cookie|passw(or)?d|secret|token|api[_-]?key|private[_-]?key|credentials?)s?$"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
_DEPTH = 6


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logs(process: str, *, level: LogLevel = LogLevel.INFO, stream: TextIO | None = None) -> None:
    """Sends structlog and the standard library's logging to `stream` (standard error), with `process` on each line."""
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    on_terminal = out.isatty()
    rendering: list[Processor] = (
        [redact, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if on_terminal
        else [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=repr)]
    )
    number = logging.getLevelNamesMapping()[level.value.upper()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

    def name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, name_process, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """structlog's processor: the event with every secret replaced."""
    return {name: _redacted(name, value, _DEPTH) for name, value in event.items()}


def redact_text(text: str) -> str:
    """`text` with bearer tokens, JWTs and passwords in URLs replaced."""
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    text = _JWT.sub(REDACTED, text)
    return _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)


def _redacted(name: str, value: object, depth: int) -> object:
    if isinstance(value, Secret):
        return REDACTED
    if isinstance(value, str | bytes | list | tuple) and value and _SECRET_NAMES.search(name):
        return REDACTED  # a number is no secret: a bucket has tokens too
    match value:
        case str():
            return redact_text(value)
        case bytes():
            return f"{len(value)} bytes"
        case Mapping() if depth:
            return {str(key): _redacted(str(key), inner, depth - 1) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset() if depth:
            return [_redacted("", inner, depth - 1) for inner in value]
        case None | bool() | int() | float():
            return value
        case _ if name in ("exc_info", "_record"):
            return value
        case _:
            return redact_text(str(value))
