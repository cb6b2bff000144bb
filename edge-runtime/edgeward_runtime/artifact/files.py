"""Reading an artifact's small JSON files. Their bytes are those that were published, but not by us."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from edgeward_runtime.errors import Refusal

MAX_JSON_BYTES = 16 * 2**20


def read_json(path: Path, *, reason: str) -> tuple[dict[str, Any], Callable[[str], Refusal]]:
    """The file's JSON object, and what makes a Refusal that names the file (step Load, permanent: the bytes are verified,
    so they stay as they are). Raises one itself for a file that is too large or no JSON object."""

    def refuse(text: str) -> Refusal:
        return Refusal(step="Load", reason=reason, message=f"{path.name}: {text}", permanent=True)

    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise refuse(f"has {size} bytes, the limit is {MAX_JSON_BYTES}")
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise refuse(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise refuse("not a JSON object")
    return document, refuse
