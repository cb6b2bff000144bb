"""What models.json asks of offloading, checked. The operator makes it from InferenceJob.spec.offload and slo.latency."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_URL = re.compile(r"https?://[^\s]{1,2040}")
_PERCENT = re.compile(r"(100|[0-9]{1,2})%")
CRITERIA = ("Confidence", "Margin", "Entropy", "Random")
_FIELDS = {"url", "caBundle", "criterion", "spill", "budget", "latencySeconds"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    url: str  # of the model: http(s)://host[:port]/v2/models/NAME
    ca: str | None = None
    criterion: str = "Confidence"
    spill: bool = False
    share: float | None = None  # of the requests, 0..1
    bytes_per_hour: float | None = None
    latency: float | None = None  # seconds


def parse(raw: object) -> tuple[Asked, list[str]]:
    """And the names of fields that are not known. ValueError says what is wrong."""
    if not isinstance(raw, dict):
        raise ValueError("offload must be an object")
    url = raw.get("url")
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ValueError("offload.url is not an http or https address")
    ca = raw.get("caBundle")
    if ca is not None and not isinstance(ca, str):
        raise ValueError("offload.caBundle must be certificates in PEM")
    criterion = raw.get("criterion", "Confidence")
    if criterion not in CRITERIA:
        raise ValueError(f"offload.criterion must be one of {', '.join(CRITERIA)}")
    spill = raw.get("spill", False)
    if type(spill) is not bool:
        raise ValueError("offload.spill must be true or false")
    budget = raw.get("budget", {})
    if not isinstance(budget, dict):
        raise ValueError("offload.budget must be an object")
    share = budget.get("requests")
    if share is not None and (not isinstance(share, str) or not _PERCENT.fullmatch(share)):
        raise ValueError(f"offload.budget.requests: {share!r:.50} is not a share like 10%")
    asked = Asked(
        url=url,
        ca=ca,
        criterion=criterion,
        spill=spill,
        share=None if share is None else int(share[:-1]) / 100.0,
        bytes_per_hour=_number(budget, "bytesPerHour", "offload.budget"),
        latency=_number(raw, "latencySeconds", "offload"),
    )
    unknown = [f"offload.{key}" for key in sorted(raw.keys() - _FIELDS)]
    return asked, unknown + [f"offload.budget.{key}" for key in sorted(budget.keys() - {"requests", "bytesPerHour"})]


def _number(raw: dict[str, Any], key: str, where: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}.{key}: {value!r:.50} is not a number from 0")
    return float(value)
