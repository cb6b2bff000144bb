"""Reading objects that people write and whose status is our own memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from edgeward.api.common import ApiError, Model, parse

M = TypeVar("M", bound=Model)


def read(model: type[M], raw: Mapping[str, Any]) -> M:
    """The object; without its status when only that cannot be read (another version wrote it, or a slip of the hand).

    A status is written anew by the next pass, so forgetting it costs little; refusing a good spec for it would leave
    the job stuck for good. Raises ApiError when the spec cannot be read.
    """
    try:
        return parse(model, raw)
    except ApiError:
        return parse(model, {key: value for key, value in raw.items() if key != "status"})
