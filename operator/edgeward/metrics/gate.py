"""What a Prometheus says to a gate's question. Whatever it answers, or does not answer, becomes data: nothing here raises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests

from .http import connect, in_words

MOST_POINTS = 1000
"""of one range; Prometheus itself takes eleven thousand"""


@dataclass(frozen=True, slots=True)
class Answered:
    value: float | None = None
    """None: no data at the end of the range"""
    samples: int = 0
    """points of the range that had a value"""
    error: str = ""
    """why there is no answer; empty when there is one"""


class GateQueries:
    """Asks for a range through prometheus-api-client, in a small thread pool of its own with its own deadline.

    A question that waits for a thread beyond the deadline is taken back; one that hangs ends by its own limit.
    """

    def __init__(
        self, *, url: str, deadline: float = 5.0, step: float = 15.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """step: seconds between two points of a range; the scrape interval, since nothing is newer in between."""
        self.name = f"Prometheus at {url}"
        self._deadline = deadline
        self._step = max(step, 1.0)
        self._client = connect(url, deadline=deadline, headers=headers)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gates")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(self, query: str, *, since: float, now: float) -> Answered:
        """The value at `now` (Unix seconds), and how many points of [since, now] had one."""
        # Whole seconds, as the library rounds to them: the last point is to be at the end.
        end, step = math.floor(now), math.ceil(max(self._step, (now - since) / MOST_POINTS))
        points = max(0, math.floor((now - since) / step))
        future = self._pool.submit(
            self._client.custom_query_range,
            query,
            start_time=datetime.fromtimestamp(end - points * step, UTC),
            end_time=datetime.fromtimestamp(end, UTC),
            step=str(step),
        )
        try:
            async with asyncio.timeout(self._deadline):
                return answered(await asyncio.wrap_future(future), now=end, step=step, name=self.name)
        except (TimeoutError, requests.exceptions.Timeout):
            return Answered(error=f"{self.name} did not answer within {self._deadline:g} s")
        except Exception as error:  # a library that parses whatever came may raise anything
            return Answered(error=f"{self.name} {in_words(error)}")


def answered(matrix: Any, *, now: float, step: float, name: str = "Prometheus") -> Answered:
    """Of a range's answer: [{"metric": {...}, "values": [[Unix seconds, text], ...]}, ...], one item a series.

    Two series are no answer: which of them was meant? A series that ended before `now` has no value any more, and NaN
    (as of 0/0) is none. Raises what a malformed answer raises.
    """
    if len(matrix) > 1:
        return Answered(error=f"{name} answered {len(matrix)} series: make one of them in the query, as with sum()")
    points = [(float(at), float(text)) for series in matrix for at, text in series["values"]]
    good = [(at, value) for at, value in points if math.isfinite(value)]
    if not good or good[-1][0] < now - step / 2:
        return Answered(samples=len(good))
    return Answered(value=good[-1][1], samples=len(good))
