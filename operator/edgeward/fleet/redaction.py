"""What of requests may be kept where: the strictest of what the job, its namespace and the site say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from .names import LABEL_REDACTION

Redaction = Literal["None", "Sketch", "Features", "Raw"]
STRICTEST_FIRST: tuple[Redaction, ...] = ("None", "Sketch", "Features", "Raw")
DEFAULT: Redaction = "Features"
"""of a job that does not say"""


def strictest(said: Iterable[str | None]) -> Redaction:
    """Of those that say anything; Raw if none does."""
    return min((_read(one) for one in said if one is not None), key=STRICTEST_FIRST.index, default="Raw")


def of_label(labels: Mapping[str, str]) -> Redaction | None:
    """None without the label."""
    text = labels.get(LABEL_REDACTION)
    return None if text is None else _read(text)


def _read(text: str) -> Redaction:
    """What makes no sense was meant to protect something: it is the strictest."""
    return next((one for one in STRICTEST_FIRST if one == text), "None")
