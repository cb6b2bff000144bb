"""Which version of each model answers. The one piece of state that requests and swaps share.

Requests read it, and the manager changes it, in the event loop's thread only (`call`): between the lookup of a model
and the count of the request that holds it nothing can slip in, so a version whose count is 0 after the flip is really
free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model

# Versions kept for their counters after they were drained, the oldest dropped first: bounds memory and label values.
_REMEMBERED = 16


class Registry:
    def __init__(self) -> None:
        self.live: dict[str, Model] = {}
        self.canaries: dict[str, Model] = {}  # beside the live one of the name
        self.candidates: dict[tuple[str, str], Model] = {}  # by name and role: loaded, gets copies of requests only
        # Whether requests for a version that made room are answered from elsewhere.
        self.gap_answered: Callable[[], bool] = lambda: False
        self.wanted: frozenset[str] = frozenset()  # names that must serve before the server is ready
        self.draining = False  # the server got SIGTERM
        self._past: list[Model] = []

    def ready(self) -> bool:
        """Every wanted model has a version that serves. An empty wish is not ready: nothing could be answered."""
        return not self.draining and bool(self.wanted) and not self.missing()

    def missing(self) -> list[str]:
        """Wanted names that no version answers for: none came yet, or the old one made room for the new one."""
        return sorted(name for name in self.wanted if not self.answers(name))

    def answers(self, name: str) -> bool:
        model = self.live.get(name)
        return model is not None and self.takes(model)

    def takes(self, model: Model) -> bool:
        """Whether requests for a version that find() gave are answered."""
        return not model.away or self.gap_answered()

    def find(self, parts: list[str]) -> Model:
        """The live model for a path's parts after /v2/models: [N] or [N, "versions", V]. ProtocolError 404 or 503."""
        name = parts[0] if parts else ""
        if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1] != "versions"):
            raise ProtocolError(404, "no such path")
        model = self.live.get(name)
        if model is None:
            if name in self.wanted:
                raise ProtocolError(503, f"model '{name}' is not ready")
            raise ProtocolError(404, f"Request for unknown model: '{name:.300}' is not found")
        if len(parts) == 3 and parts[2] != model.version:
            canary = self.canaries.get(name)
            if canary is not None and parts[2] == canary.version:
                return canary
            raise ProtocolError(404, f"Request for unknown model: '{name}' version {parts[2]:.300} is not found")
        return model

    def metadata(self, parts: list[str]) -> dict[str, object]:
        """Of the model for such parts, with all versions that a path may name."""
        model = self.find(parts)
        both = [one.version for one in (self.live.get(model.name), self.canaries.get(model.name)) if one is not None]
        return {**model.metadata(), "versions": both}

    def flip(self, model: Model, *, remember: bool = True) -> Model | None:
        """Makes `model` the one that answers; the version it replaces is returned and gets no new request."""
        old = self.live.get(model.name)
        self.live[model.name] = model
        if old is not None and remember and old.version != model.version:
            self._remember(old)  # else the new one counts on
        return old

    def set_canary(self, model: Model) -> Model | None:
        """Makes `model` the canary of its name: it answers requests that name its version, and its share of the rest
        (Model.split of the live one)."""
        old = self.canaries.get(model.name)
        self.canaries[model.name] = model
        if old is not None and old.version != model.version:
            self._remember(old)
        return old

    def drop_canary(self, name: str, *, remember: bool = True) -> Model | None:
        old = self.canaries.pop(name, None)
        live = self.live.get(name)
        if live is not None:
            live.split, live.mirrors = None, ()
        if old is not None and remember:
            self._remember(old)
        return old

    def drop(self, name: str) -> Model | None:
        old = self.live.pop(name, None)
        if old is not None:
            self._remember(old)
        return old

    def _remember(self, model: Model) -> None:
        model.split, model.mirrors = None, ()
        self._past.append(model)
        del self._past[:-_REMEMBERED]

    def versions(self) -> Iterator[tuple[Model, str]]:
        """Every version with counters. One that served twice (a rollback) is one series: the newer counts go on from
        the older, see carry_over."""
        seen: set[tuple[str, str]] = set()
        for state, models in (
            ("Serving", list(self.live.values())),
            ("Canary", list(self.canaries.values())),
            ("Mirrored", list(self.candidates.values())),
            ("Drained", self._past[::-1]),
        ):
            for model in models:
                if (model.name, model.version) not in seen:
                    seen.add((model.name, model.version))
                    yield model, state

    def carry_over(self, model: Model) -> None:
        """A version that comes back keeps its counters, else Prometheus would see a reset or the same series twice."""
        for past in [*self._past[::-1], *self.live.values(), *self.canaries.values()]:
            if past is not model and (past.name, past.version) == (model.name, model.version):
                model.stats = past.stats
                return
