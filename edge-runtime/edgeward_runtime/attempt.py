"""The way of one version from its sources to a loaded and warm model beside the one that serves:

    fetch -> verify -> signature -> load -> schema against what serves -> golden data -> warm-up

Each step raises Refusal, which names it; nothing here touches what serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgeward_runtime import lifecycle
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.config import CANARY, OFFLOAD_IN_GAP, Config, Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import Fetched
from edgeward_runtime.lifecycle import Refused, Room, Shunned, Slot, State, Tally
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model, rows_in_use, signature_change
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)


class Fetch(Protocol):
    def __call__(
        self, entry: Entry, *, cancelled: Callable[[], bool], shunned: dict[str, Shunned], tally: Tally
    ) -> Fetched: ...


class Signature(Protocol):
    """See trust.check.Signatures.check."""

    def __call__(
        self, entry: Entry, *, offline: bool = False, cancelled: Callable[[], bool] = bool
    ) -> Refusal | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """The rim: everything that touches disk, network, onnxruntime or time."""

    changed_config: Callable[[], bytes | None]
    fetch: Fetch
    signature: Signature
    load: Callable[[Artifact, Entry], Model]
    golden: Callable[[Model], None]  # Refusal if the model's own golden data does not come out
    warm: Callable[[Model, tuple[int, ...]], float | None]  # with so many rows at a time
    memory: Callable[[], float | None]  # bytes that can still be had, None if nobody knows
    trim: Callable[[], None]  # gives freed memory back to the system
    call: Callable[[Callable[[], Any]], Any]  # runs it in the event loop's thread and answers its result
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # unix seconds
    jitter: Callable[[], float]  # 0..1
    host: str  # the pod: replicas that share a store must not take each other's loads for crashed ones
    build: str  # versions of this runtime and of onnxruntime: a refusal is remembered for these only
    # A loaded version under the parameters of the entry, without loading anything.
    again: Callable[[Model, Entry], Model] = lambda model, entry: model.again(entry.parameters)
    # Told of each config: what it is about beside models. In the manager's thread.
    adopted: Callable[[Config], None] = lambda _config: None


def opened(path: Path, digest: str) -> Artifact:
    """What the store found: a file, or the folder of an artifact. Refusal if no model is in it."""
    return Artifact.of_folder(path, digest=digest) if path.is_dir() else Artifact.of_file(path, digest=digest)


class Steps:
    def __init__(self, *, store: Store, stats: ServerStats, tools: Tools) -> None:
        self._store = store
        self._stats = stats
        self._tools = tools
        self.at = "Fetch"  # the step that runs, for an error that names none

    def enter(self, slot: Slot, state: State) -> None:
        self.at = lifecycle.step_of(state)
        slot.progress = lifecycle.entered(slot.progress, state, wall=self._tools.wall())

    def bring(
        self, slot: Slot, *, cancelled: Callable[[], bool], missing: Callable[[], None] = lambda: None
    ) -> Artifact:
        """The entry's files, every byte verified. `missing` is called before they are fetched, which may take long."""
        entry = slot.entry
        if self._store.has(entry.digest):
            self.enter(slot, State.VERIFYING)
            path = self._store.find(entry.digest, cancelled=cancelled)
            if path is not None:
                slot.progress = replace(slot.progress, size=self._store.size(path))
                return opened(path, entry.digest)
        missing()
        self.enter(slot, State.FETCHING)
        start = self._tools.clock()
        fetched = self._tools.fetch(entry, cancelled=cancelled, shunned=slot.shunned, tally=slot.tally)
        self.enter(slot, State.VERIFYING)
        seconds = self._tools.clock() - start
        slot.progress = replace(slot.progress, size=self._store.size(fetched.path), seconds=seconds)
        return opened(fetched.path, entry.digest)

    def vouched(self, slot: Slot, *, offline: bool = False, cancelled: Callable[[], bool] = bool) -> None:
        """Whether somebody signed it whom its policy trusts. What policy Warn lets pass is noted."""
        self.at = "Signature"
        try:
            warning = self._tools.signature(slot.entry, offline=offline, cancelled=cancelled)
        except Refusal as refusal:
            if refusal.permanent or refusal.reason == "SignatureUnreachable":
                raise
            # Whoever signs may still be at it, but hardly within seconds.
            after = lifecycle.long_backoff(slot.progress.failures + 1)
            raise Refusal(
                step=refusal.step, reason=refusal.reason, message=refusal.message, permanent=False, after=after
            ) from None
        noted = None
        if warning is not None:
            log.warning(
                "loaded all the same, the policy is Warn",
                extra={"model": slot.entry.name, "reason": warning.reason, "error": warning.message},
            )
            noted = Refused(step=warning.step, reason=warning.reason, message=warning.message, at=self._tools.wall())
        slot.progress = replace(slot.progress, warning=noted)

    def room(self, slot: Slot, artifact: Artifact, base: Model | None, *, when_too_big: str) -> Room:
        """Whether the version may be loaded beside what serves. Refusal NotEnoughMemory if not, and no gap is allowed
        or none would help."""
        self.at = "Load"
        needed = lifecycle.memory_needed(slot.progress.size or 0, measured=artifact.measured.get("memoryBytes"))
        freed = None
        if base is not None and not base.away:
            measured = base.artifact.measured.get("memoryBytes") if base.artifact is not None else None
            freed = lifecycle.memory_held(base.size, measured=measured)
        available = self._tools.memory()
        in_gap = when_too_big == OFFLOAD_IN_GAP and slot.entry.role != CANARY
        room = lifecycle.room(needed=needed, available=available, freed=freed, in_gap=in_gap)
        if room is None:
            message = (
                f"loading it takes about {needed >> 20} MiB, {int(available or 0) >> 20} MiB are free beside the "
                f"version that serves"
            )
            raise Refusal(
                step="Load",
                reason="NotEnoughMemory",
                message=message,
                permanent=False,
                after=lifecycle.long_backoff(slot.progress.failures + 1),
            )
        return room

    def prepare(self, slot: Slot, artifact: Artifact, base: Model | None) -> Model:
        """A loaded and warm model. `base` is the stable version that serves, or has just made room."""
        start = self._tools.clock()
        self.enter(slot, State.LOADING)
        model = self._tools.load(artifact, slot.entry)
        model.size = slot.progress.size or 0
        try:
            self._check_schema(slot.entry, base, model)
            self.enter(slot, State.CHECKING)
            self._tools.golden(model)
            self.enter(slot, State.WARMING)
            self._tools.warm(model, rows_in_use(base))
        except BaseException:
            model.release()
            self._tools.trim()
            raise
        self._stats.load_seconds[slot.entry.name] = self._tools.clock() - start
        return model

    def retune(self, slot: Slot, model: Model) -> Model:
        """The version that serves, under other parameters: its session is the same one, so there is nothing to check."""
        self.enter(slot, State.LOADING)
        return self._tools.again(model, slot.entry)

    def load_again(self, slot: Slot, artifact: Artifact) -> Model:
        """A version that has served before: checked then, so only loaded and warmed up."""
        model = self._tools.load(artifact, slot.entry)
        model.size = slot.progress.size or 0
        self._tools.warm(model, ())
        return model

    def _check_schema(self, entry: Entry, base: Model | None, model: Model) -> None:
        self.at = "Schema"
        change = signature_change(base, model) if base is not None else None
        if change is None:
            return
        if entry.role == CANARY:
            message = f"{change}; a canary answers the same requests as the version beside it"
        elif entry.parameters.get("allowSchemaChange", False):
            return
        else:
            message = f"{change}; set the parameter allowSchemaChange: true if clients are ready for it"
        raise Refusal(step="Schema", reason="SchemaChanged", message=message, permanent=True)
