"""What serves: flips, canaries, versions under test, draining. The manager's side of the registry; every change of what
requests see is made in the event loop's thread (`tools.call`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from edgeward_runtime.attempt import Tools
from edgeward_runtime.config import CANARY, STABLE, Entry
from edgeward_runtime.lifecycle import Slot
from edgeward_runtime.model import Model, signature_change
from edgeward_runtime.registry import Registry
from edgeward_runtime.route import Split, Target
from edgeward_runtime.status import Serving

log = logging.getLogger(__name__)

_POLL = 0.02  # seconds
_LONGEST_DRAIN = 30.0  # seconds that a version that should make room may take to get free


def takes_requests_of(stable: Model, canary: Model) -> bool:
    return signature_change(stable, canary) is None and (stable.chain is None or canary.chain is not None)


class Live:
    def __init__(self, *, registry: Registry, tools: Tools) -> None:
        self._registry = registry
        self._tools = tools
        self._draining: list[Model] = []
        self.serving: dict[tuple[str, str], Serving] = {}  # by name and role

    @property
    def busy(self) -> bool:
        return bool(self._draining or self._registry.candidates)

    def go_live(self, slot: Slot, model: Model) -> None:
        """The flip: requests that come from now on go to `model`, or for a canary those that relink() sends there."""
        place = slot.entry.place

        def flip() -> Model | None:
            self._registry.candidates.pop(place, None)
            self._registry.carry_over(model)
            return self._registry.flip(model) if place[1] == STABLE else self._registry.set_canary(model)

        old = self._tools.call(flip)
        self.serving = {**self.serving, place: Serving(entry=slot.entry, progress=slot.progress)}
        log.info(
            "version serves",
            extra={"model": model.name, "version": model.version, "digest": model.digest, "role": place[1]},
        )
        self._retire(old)

    def confirm(self, slot: Slot) -> None:
        """The version that serves is wanted by another entry of the same identity."""
        self.serving = {**self.serving, slot.entry.place: Serving(entry=slot.entry, progress=slot.progress)}

    def take_canary(self, name: str) -> Model:
        """The canary's model, which is none any more. It has to go live right after."""
        model = self._registry.canaries[name]
        self._tools.call(lambda: self._registry.drop_canary(name, remember=False))
        self.serving = {place: one for place, one in self.serving.items() if place != (name, CANARY)}
        return model

    def drop(self, place: tuple[str, str]) -> None:
        """Nothing serves there any more."""
        name, role = place
        drop = self._registry.drop if role == STABLE else self._registry.drop_canary
        self._retire(self._tools.call(lambda: drop(name)))
        self.serving = {other: one for other, one in self.serving.items() if other != place}

    # -- versions that see copies of requests first ---------------------------------------------------------------

    def mirror_first(self, entry: Entry, model: Model) -> None:
        self._tools.call(lambda: self._registry.candidates.update({entry.place: model}))

    def give_up(self, place: tuple[str, str]) -> None:
        """A version under test will not go live."""
        self._retire(self._tools.call(lambda: self._registry.candidates.pop(place, None)))

    def relink(self, slots: Iterable[Slot]) -> None:
        """Tells each stable version what share of its requests a canary gets, and who gets copies. All at once, from
        what the config says now."""
        entries = {slot.entry.place: slot.entry for slot in slots}

        def link() -> None:
            for name, stable in self._registry.live.items():
                canary, entry = self._registry.canaries.get(name), entries.get((name, CANARY))
                # Requests are read as the stable version's; one that came since may take others.
                fits = canary is not None and entry is not None and takes_requests_of(stable, canary)
                stable.split = Split(canary, entry.traffic) if fits and canary and entry and entry.traffic else None
                targets = [
                    Target(model, entries[place].mirror or 100)
                    for place, model in self._registry.candidates.items()
                    if place[0] == name and place in entries
                ]
                if fits and canary and entry and entry.mirror:
                    targets.append(Target(canary, entry.mirror))
                stable.mirrors = tuple(targets)

        self._tools.call(link)

    # -- making room ----------------------------------------------------------------------------------------------

    def make_room(self, name: str, *, cancelled: Callable[[], bool], wait: Callable[[float], object]) -> bool:
        """Unloads the stable version of a name once its requests are done. Meanwhile and after it a stand-in without a
        session takes the requests, which are offloaded or answered 503. False, and it serves on, if it does not get
        free in time or nobody wants the room any more."""
        old = self._registry.live[name]
        self._tools.call(lambda: self._registry.flip(old.stand_in(), remember=False))
        deadline = self._tools.clock() + _LONGEST_DRAIN
        while old.inflight:
            if self._tools.clock() >= deadline or cancelled():
                self._tools.call(lambda: self._registry.flip(old, remember=False))
                return False
            wait(_POLL)
        self.serving = {place: one for place, one in self.serving.items() if place != (name, STABLE)}
        self.free(old)
        return True

    # -- draining -------------------------------------------------------------------------------------------------

    def _retire(self, old: Model | None) -> None:
        if old is not None:
            self._draining.append(old)

    def free(self, model: Model) -> None:
        model.release()
        self._tools.trim()

    def free_drained(self) -> None:
        """Frees versions that no request holds. They were taken out of the registry in the loop's thread, where
        requests are counted too, so a count of 0 stays 0."""
        still: list[Model] = []
        for model in self._draining:
            if model.inflight:
                still.append(model)
            else:
                self.free(model)
                log.info("version drained and freed", extra={"model": model.name, "version": model.version})
        self._draining = still
