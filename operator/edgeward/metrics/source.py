"""Reading live figures. Whatever a source answers, or does not answer, becomes data: nothing here raises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import requests

from edgeward.api.quantity import parse_bytes, parse_quantity
from edgeward.fleet.model import Live, Sample

from .http import connect, in_words
from .profiles import Profile


@dataclass(frozen=True, slots=True)
class Reading:
    """Figures by node name, and why there are none or fewer than there should be (empty when all is well)."""

    live: Mapping[str, Live] = field(default_factory=dict)
    problem: str = ""


class Source(Protocol):
    name: str

    async def read(self) -> Reading: ...


class PrometheusSource:
    """Asks Prometheus through prometheus-api-client, in a small thread pool of its own.

    The client's own time limit is per socket operation and its retries take six seconds; so retries are off and one
    deadline holds over the whole reading. A thread that hangs beyond it is left to its own limit, and while any hangs
    the next reading says so instead of queueing behind it.
    """

    def __init__(
        self,
        *,
        url: str,
        profile: Profile,
        window: str = "1m",
        deadline: float = 5.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"Prometheus at {url}"
        self._profile = profile
        self._window = window
        self._deadline = deadline
        self._client = connect(url, deadline=deadline, headers=headers)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prometheus")
        self._running = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self) -> Reading:
        late = f"did not answer within {self._deadline:g} s"
        if self._running:
            # Threads still hang on the last reading's queries; more of them would only queue behind.
            return Reading(problem=f"{self.name} {late}")
        profile = self._profile
        queries = (profile.cpu.value, profile.cpu.measured_at, profile.memory.value, profile.memory.measured_at)
        try:
            async with asyncio.timeout(self._deadline):
                # All of them to their end: the first failure would leave the others running into the next reading.
                answers = await asyncio.gather(*(self._ask(query) for query in queries), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        except (TimeoutError, requests.exceptions.Timeout):
            return Reading(problem=f"{self.name} {late}")
        except Exception as error:  # a library that parses whatever came may raise anything
            return Reading(problem=f"{self.name} {in_words(error)}")
        try:
            return self._combine(answers)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return Reading(problem=f"{self.name} answered something that is not a vector")

    def _ask(self, query: str) -> Awaitable[Any]:
        future = self._pool.submit(self._client.custom_query, query.replace("WINDOW", self._window))
        with self._lock:
            self._running += 1
        future.add_done_callback(self._finished)
        return asyncio.wrap_future(future)

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._running -= 1

    def _combine(self, answers: list[Any]) -> Reading:
        label = self._profile.node_label
        cpu, cpu_at, memory, memory_at = (_vector(answer, label) for answer in answers)
        live = {}
        for node in cpu.keys() | memory.keys():
            twice = [name for name, found in (("cpu", cpu), ("memory", memory)) if len(found.get(node, ())) > 1]
            live[node] = Live(
                cpu=_sample(cpu, cpu_at, node),
                memory=_sample(memory, memory_at, node),
                distrust=f"{' and '.join(twice)} answered more than once for this node" if twice else "",
            )
        if not live:
            return Reading(problem=f"{self.name} has no series for profile {self._profile.name}: is the scrape set up?")
        return Reading(live=live)


def _vector(answer: Any, label: str) -> dict[str, list[float]]:
    """Values by node of an instant vector. Prometheus sends numbers as text, `NaN` and `+Inf` included."""
    found: dict[str, list[float]] = {}
    for series in answer:
        node = series["metric"].get(label)
        if node:
            found.setdefault(node, []).append(float(series["value"][1]))
    return found


def _sample(values: Mapping[str, list[float]], times: Mapping[str, list[float]], node: str) -> Sample | None:
    """None unless there is just one value and a time for it: two answers for one node are no answer."""
    value, at = values.get(node, []), times.get(node, [])
    return Sample(value=value[0], at=at[0]) if len(value) == 1 and len(at) == 1 else None


class MetricsApiSource:
    """The metrics.k8s.io API, which k3s brings along: the last resort. `list_nodes` returns its NodeMetrics."""

    name = "metrics.k8s.io"

    def __init__(self, list_nodes: Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]) -> None:
        self._list_nodes = list_nodes

    async def read(self) -> Reading:
        try:
            items = list(await self._list_nodes())
        except Exception as error:  # no such API, no right to it, no answer: all the same to a reader of figures
            return Reading(problem=f"{self.name}: {error}")
        live, broken = {}, 0
        for item in items:
            try:
                live[item["metadata"]["name"]] = _node_metrics(item)
            except (KeyError, TypeError, ValueError, AttributeError):
                broken += 1
        if live:
            return Reading(live=live)
        return Reading(problem=f"{self.name} answered something else" if broken else f"{self.name} knows no node")


def _node_metrics(item: Mapping[str, Any]) -> Live:
    at = datetime.fromisoformat(item["timestamp"]).timestamp()
    usage = item["usage"]
    return Live(
        cpu=Sample(value=float(parse_quantity(usage["cpu"])), at=at),
        memory=Sample(value=parse_bytes(usage["memory"]), at=at),
    )
