"""Keeps a site's memory (memory.py) in its own API, and adds what the site's own gates say (fallback.py)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from edgeward.api.assignment import Assignment, RefusedHere
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import CONFIG_MAPS, Object

from . import activation, memory
from .document import config_revision, told_models
from .fallback import Fallbacks
from .render import config_name
from .settings import MANAGER
from .wanted import identity, read_assignment
from .watches import looked

log = logging.getLogger(__name__)


class Remembering:
    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        namespace: str,
        answers: Callable[[str], Mapping[str, Object]],
        back: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """namespace: the agent's own. answers: what the runtimes of an Assignment said last. back: told of an Assignment
        whose site goes back from a version."""
        self._client = client
        self._cache = cache
        self._namespace = namespace
        self._answers = answers
        self._back = back
        self._clock = clock
        self._fallbacks = Fallbacks()
        self._gates: dict[str, list[RefusedHere]] = {}
        """by Assignment, what failed a gate of the site's and is not written yet"""
        self._one_at_a_time = asyncio.Lock()
        """the memory of a site is one object for all its Assignments"""

    def judged(
        self, raw: Object, pods: Sequence[Object], answers: Mapping[str, Object], judge: bool = True
    ) -> float | None:
        """A look at the runtimes of an Assignment: the site may go back because of it. When it wants the next one."""
        name = raw["metadata"]["name"]
        seen = [looked(pod, answers) for pod in pods]
        models = raw["spec"].get("models") or []
        if not any(model.get("localGates") for model in models):
            self._fallbacks.note(name, [model["digest"] for model in models], seen, at=self._clock())
            return None
        assignment = read_assignment(raw)
        if assignment is None:
            return None
        waiting = activation.waiting(assignment, told=told_models(self._config(assignment)))
        known = self.of(assignment)
        found = self._fallbacks.look(assignment, seen, known, at=self._clock(), judge=judge, waiting=waiting)
        for one in found:
            log.warning("assignment %s: back from %s by itself: %s", name, one.version, one.reason)
        if found:
            self._gates.setdefault(name, []).extend(found)
            self._back(name)
        return self._fallbacks.due(name)

    def of(self, assignment: Assignment) -> tuple[RefusedHere, ...]:
        """Of the models that it names, the newest first, as many as a status takes."""
        return tuple(sorted(self._known(assignment), key=memory.order, reverse=True)[: memory.MOST])

    def gone(self, assignment: Assignment) -> frozenset[str]:
        """Identities that the site went back from by itself."""
        # Also where the memory cannot be written, a retry holds.
        attempts = {identity(model): model.attempt for model in assignment.spec.models}
        known = (*self._known(assignment), *self._gates.get(assignment.name, ()))
        return memory.fallen(one for one in known if one.attempt >= attempts.get(one.identity, 0))

    def _known(self, assignment: Assignment) -> list[RefusedHere]:
        config, namespace = self._memory(assignment.spec.site), assignment.spec.job.namespace
        names = {model.name for model in assignment.spec.models}
        return [one for name in names for one in memory.read(config, memory.key_of(namespace, name))]

    async def update(self, assignment: Assignment) -> None:
        """Brings the memory up to what is said now: by the hub, by the pods, by the site's own gates."""
        spec = assignment.spec
        newest = config_revision(self._config(assignment))
        said = [one for one in self._answers(assignment.name).values() if int(one.get("revision") or 0) >= newest]
        gates = list(self._gates.get(assignment.name, ()))
        async with self._one_at_a_time:
            config, entries = self._memory(spec.site), {}
            for name in sorted({model.name for model in spec.models}):
                key = memory.key_of(spec.job.namespace, name)
                before = memory.read(config, key)
                now = memory.after(before, assignment, name, said=said, gates=gates)
                if now != before:
                    entries[key] = now
            if entries:
                body = memory.written(config, site=spec.site, namespace=self._namespace, entries=entries)
                try:
                    self._cache[CONFIG_MAPS].put(await self._client.apply(CONFIG_MAPS, body, manager=MANAGER))
                except ApiError as error:
                    if error.status in (0, 409, 429) or error.status >= 500:
                        raise  # and tried again soon
                    # What serves must not wait for what is remembered; the gates of this process hold all the same.
                    log.error("the memory of site %s cannot be written: %s", spec.site, error)
                    return
        if gates:
            self._gates[assignment.name] = self._gates[assignment.name][len(gates) :]

    def forget(self, name: str) -> None:
        """What this process knows of an Assignment that is gone. The memory stays."""
        self._fallbacks.forget(name)
        self._gates.pop(name, None)

    def _memory(self, site: str) -> Object | None:
        return self._cache[CONFIG_MAPS].get(f"{self._namespace}/{memory.name_of(site, namespace=self._namespace)}")

    def _config(self, assignment: Assignment) -> Object | None:
        return self._cache[CONFIG_MAPS].get(f"{assignment.spec.job.namespace}/{config_name(assignment)}")
