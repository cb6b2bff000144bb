"""Structured logs: one JSON object per line on stderr. Request bodies and tensors are never logged, and there is no
line per request: at 20,000 requests a second both would cost more than the model."""

from __future__ import annotations

import datetime
import logging
import sys
import traceback

import orjson

# What every LogRecord carries; anything else came in through `extra=` and is a field of the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_MAX_CHAIN = 8  # exceptions behind one another


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = frames(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def frames(error: BaseException) -> str:
    """Where an exception came from, and those behind it, without what they say: a message often quotes the value that it
    is about, and that may be of a request."""
    parts: list[str] = []
    here: BaseException | None = error
    while here is not None and len(parts) < _MAX_CHAIN:
        parts.append("".join(traceback.format_tb(here.__traceback__)) + type(here).__qualname__)
        here = here.__cause__ or (None if here.__suppress_context__ else here.__context__)
    return "\nafter\n".join(parts)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
