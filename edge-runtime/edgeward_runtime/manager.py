"""Brings what the agent wants live, in a thread of its own. The way of one version is attempt.py's, what serves is in
live.py, what outlives the process in records.py; here is when to do what.

One rule over all: until the flip the version that serves is not touched, so a failure at any step changes nothing for
clients. The one exception has to be asked for (modelSwap: OffloadInGap): a version that does not fit in memory beside
the old one takes its place, and if it fails the old one is loaded again. At boot the version that served last comes up
first, from disk; then the wanted one takes the ordinary way. So a pod that restarts in the middle of a bad rollout, or
without network, answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from edgeward_runtime import lifecycle, status
from edgeward_runtime.attempt import Steps, Tools, opened
from edgeward_runtime.config import CANARY, REFUSE, STABLE, STAGED, Config, ConfigError, Entry, job_of, parse
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.gap import Gaps
from edgeward_runtime.lifecycle import Progress, Room, Slot, State
from edgeward_runtime.live import Live
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.records import Records
from edgeward_runtime.registry import Registry
from edgeward_runtime.slots import Refusals, same
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)

_BUSY_POLL = 0.05  # seconds between looks while a version drains or is mirrored
_CANCEL_CHECK = 0.5  # seconds between looks at the config while a step runs


class Manager:
    def __init__(
        self, *, store: Store, registry: Registry, stats: ServerStats, tools: Tools, poll_seconds: float
    ) -> None:
        self._store = store
        self._registry = registry
        self._stats = stats
        self._tools = tools
        self._steps = Steps(store=store, stats=stats, tools=tools)
        self._live = Live(registry=registry, tools=tools)
        self._records = Records(store=store, host=tools.host, build=tools.build)
        self._refusals = Refusals(self._records)
        self._gaps = Gaps(live=self._live, tools=tools)
        self._poll_seconds = poll_seconds
        self._config: Config | None = None
        self._when_too_big = REFUSE
        self._unadopted: bytes | None = None  # a config whose adoption failed, tried again
        self._config_refused: status.ConfigRefused | None = None
        self._slots: dict[tuple[str, str], Slot] = {}
        self._stood_in: frozenset[str] = frozenset()  # digests that were tried
        self._booted = False
        self._looked_at = 0.0
        self._started = tools.wall()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeward-models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Asks the thread to end; False if a step that cannot be interrupted, such as loading, still runs."""
        self._stopping.set()
        self._thread.join(timeout=1)
        # The process ends, perhaps in the middle of a load, because it was asked to, not because of a model.
        for slot in list(self._slots.values()):
            self._records.load_ended(slot.entry)
        return not self._thread.is_alive()

    def status(self) -> dict[str, object]:
        """Read from the event loop's thread; every part is replaced as a whole by ours."""
        return status.document(
            revision=self._config.revision if self._config else 0,
            wanted={place: (slot.entry, lifecycle.counted(slot)) for place, slot in dict(self._slots).items()},
            serving=dict(self._live.serving),
            config_refused=self._config_refused,
            versions={(model.name, model.version): model for model, _state in self._registry.versions()},
            gaps=self._gaps.names,
            started=self._started,
        )

    def _run(self) -> None:
        self._store.clean()
        while not self._stopping.is_set():
            try:
                self.step()
            except Exception:
                # A bug here must not end the thread: the server would go on but never change again.
                log.exception("model manager")
            self._stopping.wait(_BUSY_POLL if self._live.busy else self._poll_seconds)

    def step(self) -> None:
        """Looks at the config, works on what is due, frees what is drained. Returns when nothing is left to do now."""
        self._look()
        self._hold()
        for slot in list(self._slots.values()):
            # Work on the one before may have brought a new config.
            if not self._current(slot):
                continue
            if slot.progress.state is State.MIRRORING:
                self._mirrored(slot)
            elif lifecycle.due(slot.progress, now=self._tools.clock()) and self._has_base(slot):
                self._attempt(slot)
        if not self._stopping.is_set():
            self._gaps.close(self._bring_back)
        self._live.free_drained()
        self._hold()

    def _hold(self) -> None:
        """Keeps the other pods of the node from removing what is wanted or serves here."""
        wanted = [slot.entry.digest for slot in self._slots.values()]
        kept = self._config.keep if self._config is not None else ()
        self._store.hold(frozenset([*wanted, *kept, *(one.entry.digest for one in self._live.serving.values())]))

    # -- config ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looked_at = self._tools.clock()
        text = self._tools.changed_config() or self._unadopted
        if text is None:
            return
        self._unadopted = None
        try:
            config = parse(text)
        except ConfigError as error:
            log.error("config refused, the last one stays", extra={"reason": error.reason, "error": str(error)})
            self._config_refused = status.ConfigRefused(reason=error.reason, message=str(error), at=self._tools.wall())
            if not self._booted and (job := job_of(text)) is not None:
                self._records.job = job
                self._boot(None)
            return
        for warning in config.warnings:
            log.warning("config", extra={"warning": warning})
        self._config_refused = None
        self._unadopted = text
        self._adopt(config)
        self._unadopted = None

    def _adopt(self, config: Config) -> None:
        log.info(
            "config read",
            extra={
                "revision": config.revision,
                "models": [f"{entry.name}@{entry.version} {entry.role}" for entry in config.entries],
            },
        )
        self._records.job = (config.namespace, config.job)
        self._when_too_big = config.when_too_big
        before = self._slots
        slots: dict[tuple[str, str], Slot] = {}
        for entry in config.entries:
            slot = before.get(entry.place)
            if slot is not None and slot.entry.key == entry.key and not _tried_again(slot, entry):
                slot.entry = entry  # its traffic may be another
                slots[entry.place] = slot
            else:
                slots[entry.place] = self._refusals.slot(
                    entry, self._live.serving.get(entry.place), now=self._tools.clock(), wall=self._tools.wall()
                )
                slots[entry.place].fetched_as(before.get((entry.name, STAGED)))
        self._slots = slots
        for slot in before.values():
            if all(slot.entry.key != other.entry.key for other in slots.values()):
                self._records.load_ended(slot.entry)
        names = frozenset(name for name, role in slots if role != STAGED)
        self._tools.call(lambda: setattr(self._registry, "wanted", names))
        if not self._booted:
            self._boot(config)
        for slot in slots.values():
            self._promote(slot)
        there = {*self._live.serving, *((name, STABLE) for name in self._registry.live)}  # one may stand in for a gap
        for place in there - slots.keys():
            self._live.drop(place)
        for place in list(self._registry.candidates):
            if place not in slots or slots[place].progress.state is not State.MIRRORING:
                self._live.give_up(place)
        self._gaps.keep(names)
        self._live.relink(slots.values())
        self._tools.adopted(config)
        self._config = config  # last: its revision in the status says that all this is done

    def _promote(self, slot: Slot) -> None:
        """A canary that is now wanted as stable is loaded and warm already, and has seen real requests."""
        name, role = slot.entry.place
        canary = self._live.serving.get((name, CANARY))
        if role != STABLE or canary is None or not same(canary.entry, slot.entry):
            return
        if slot.progress.state is not State.SERVING:
            self._served(slot, self._live.take_canary(name))

    # -- boot -----------------------------------------------------------------------------------------------------

    def _boot(self, wanted: Config | None) -> None:
        """Serves what served last, where that is not what is wanted anyway. `wanted` None: the config was refused."""
        self._booted = True
        stable = {entry.name: entry for entry in wanted.entries if entry.role == STABLE} if wanted else {}
        before = {entry.identity for entry in self._records.previous()}
        for entry in self._records.last_good():
            now = stable.get(entry.name)
            if now is not None and now.identity in before and self._back_to(now):
                continue
            if now is not None and now.identity != entry.identity:
                # What is trusted today counts, and no record on a disk that others may write.
                entry = replace(entry, signature=now.signature)
            elif now is not None or wanted is not None:
                continue
            try:
                if self._bring_back(entry):
                    log.info("last good version serves", extra={"model": entry.name, "version": entry.version})
            except (Cancelled, Refusal, OSError) as error:
                log.error(
                    "last good version does not load",
                    extra={"model": entry.name, "version": entry.version, "error": str(error)},
                )
        if wanted is None:
            names = frozenset(name for name, _role in self._live.serving)
            self._tools.call(lambda: setattr(self._registry, "wanted", names))

    def _back_to(self, entry: Entry) -> bool:
        """A way back to what served before: what served last may have ended this process, and would again."""
        try:
            if not self._bring_back(entry):
                return False
        except (Cancelled, Refusal, OSError) as error:
            log.error(
                "the version to go back to does not load",
                extra={"model": entry.name, "version": entry.version, "error": str(error)},
            )
            return False
        log.warning("back to the version before", extra={"model": entry.name, "version": entry.version})
        return True

    def _stand_in(self, entry: Entry) -> None:
        """Where what should serve has to be fetched and nothing serves, because a disk damaged what did: the version
        before that is better than none."""
        if entry.name in self._registry.live or entry.role != STABLE:
            return
        for before in self._records.previous():
            if before.name != entry.name or before.digest in (entry.digest, *self._stood_in):
                continue
            self._stood_in = frozenset([*self._stood_in, before.digest])
            try:
                if self._bring_back(replace(before, signature=entry.signature)):
                    log.warning("the version before serves", extra={"model": before.name, "version": before.version})
            except (Cancelled, Refusal, OSError) as error:
                log.error(
                    "the version before does not load",
                    extra={"model": before.name, "version": before.version, "error": str(error)},
                )

    def _bring_back(self, entry: Entry) -> bool:
        """Loads a version that has served before, from disk; False if its blob is not there any more."""
        path = self._store.find(entry.digest, cancelled=self._stopping.is_set)
        if path is None:
            return False
        slot = Slot(entry=entry, progress=Progress(since=self._tools.wall(), size=self._store.size(path)))
        self._steps.vouched(slot, offline=True)
        self._go_live(slot, self._steps.load_again(slot, opened(path, entry.digest)))
        return True

    # -- one entry ------------------------------------------------------------------------------------------------

    def _attempt(self, slot: Slot) -> None:
        gap = False
        try:
            if self._retuned(slot):
                return
            artifact = self._steps.bring(
                slot, cancelled=self._cancelled(slot), missing=lambda: self._stand_in(slot.entry)
            )
            self._steps.vouched(slot, cancelled=self._cancelled(slot))
            if slot.entry.role == STAGED:
                self._steps.enter(slot, State.STAGED)
                return
            if self._confirmed(slot):
                return
            base = self._registry.live.get(slot.entry.name)
            room = self._steps.room(slot, artifact, base, when_too_big=self._when_too_big)
            self._records.load_begins(
                slot.entry, tries=slot.crashes + 1, wanted=[one.entry for one in self._slots.values()]
            )
            try:
                if room is Room.IN_GAP:
                    gap = True
                    try:
                        self._gaps.open(slot, cancelled=self._cancelled(slot), wait=self._stopping.wait)
                    finally:
                        self._live.relink(self._slots.values())
                model = self._steps.prepare(slot, artifact, base)
            except BaseException:
                self._records.load_ended(slot.entry)
                raise
        except Cancelled:
            return
        except Refusal as refusal:
            self._fail(slot, refusal, gap=gap)
            return
        except Exception as error:
            log.exception("bringing a model live")
            step = self._steps.at
            self._fail(
                slot, Refusal(step=step, reason="InternalError", message=str(error)[:300], permanent=False), gap=gap
            )
            return
        if not self._current(slot):
            self._records.load_ended(slot.entry)
            self._live.free(model)
        elif base is not None and not base.away and slot.entry.mirror_requests and not gap:
            self._steps.enter(slot, State.MIRRORING)
            self._live.mirror_first(slot.entry, model)
            self._live.relink(self._slots.values())
        else:
            self._served(slot, model)

    def _retuned(self, slot: Slot) -> bool:
        """Whether the version that serves there is wanted with other parameters, and nothing else: then they are live
        now, and its session goes on."""
        name, role = slot.entry.place
        live = self._live.serving.get(slot.entry.place)
        model = (self._registry.live if role == STABLE else self._registry.canaries).get(name)
        if live is None or model is None or model.away or live.entry.identity == slot.entry.identity:
            return False
        if (live.entry.version, live.entry.digest) != (slot.entry.version, slot.entry.digest):
            return False
        if live.entry.signature != slot.entry.signature:
            self._steps.vouched(slot, cancelled=self._cancelled(slot))
        slot.progress = replace(slot.progress, size=live.progress.size, seconds=live.progress.seconds)
        self._served(slot, self._steps.retune(slot, model))
        return True

    def _confirmed(self, slot: Slot) -> bool:
        """Whether just this version serves there already, so that only what is asked of its signature has changed."""
        live = self._live.serving.get(slot.entry.place)
        if live is None or live.entry.identity != slot.entry.identity:
            return False
        slot.progress = lifecycle.entered(slot.progress, State.SERVING, wall=live.progress.since)
        self._live.confirm(slot)
        self._remember_good()
        return True

    def _current(self, slot: Slot) -> bool:
        return self._slots.get(slot.entry.place) is slot and not self._stopping.is_set()

    def _has_base(self, slot: Slot) -> bool:
        """A canary is checked against the stable version and shares its requests: it waits for that one."""
        return slot.entry.role != CANARY or (slot.entry.name, STABLE) in self._live.serving

    def _cancelled(self, slot: Slot) -> Callable[[], bool]:
        """Asked often by the steps that take long: the config is looked at meanwhile, so that a rollback does not wait
        for a slow download of what nobody wants any more."""

        def check() -> bool:
            if self._tools.clock() - self._looked_at >= _CANCEL_CHECK:
                self._look()
            return not self._current(slot) or (slot.entry.role == STAGED and self._more_urgent())

        return check

    def _more_urgent(self) -> bool:
        """Whether something is to go live now: what is fetched for later gives way, and goes on from where it was."""
        now = self._tools.clock()
        return any(
            slot.entry.role != STAGED and lifecycle.due(slot.progress, now=now) and self._has_base(slot)
            for slot in list(self._slots.values())
        )

    def _mirrored(self, slot: Slot) -> None:
        """A version that answers copies of requests takes traffic once it has answered as many as asked for."""
        model = self._registry.candidates[slot.entry.place]
        if model.copies.error:
            self._live.give_up(slot.entry.place)
            self._live.relink(self._slots.values())
            message = f"fails on a request that the version before answers: {model.copies.error}"
            self._fail(slot, Refusal(step="Mirror", reason="MirrorFailed", message=message, permanent=True))
        elif model.copies.requests >= slot.entry.mirror_requests:
            self._served(slot, model)

    def _served(self, slot: Slot, model: Model) -> None:
        if slot.entry.role == STABLE:
            # Before anybody can see that it serves and end the process. A canary is on trial as long as it is one: a
            # process that ends under it starts without it.
            self._records.load_ended(slot.entry)
        self._go_live(slot, model)
        self._stats.swap(model.name, "Serving")
        self._remember_good()

    def _remember_good(self) -> None:
        stable = [live.entry for (_name, role), live in self._live.serving.items() if role == STABLE]
        self._records.remember_good(stable)

    def _go_live(self, slot: Slot, model: Model) -> None:
        slot.progress = lifecycle.entered(slot.progress, State.SERVING, wall=self._tools.wall())
        self._live.go_live(slot, model)
        self._live.relink(self._slots.values())
        if slot.entry.role == STABLE:
            self._gaps.keep(self._gaps.names - {model.name})

    def _fail(self, slot: Slot, refusal: Refusal, *, gap: bool = False) -> None:
        entry = slot.entry
        if gap and not refusal.permanent:
            # Each try is a gap: not as often as one that clients do not notice.
            wait = max(refusal.after or 0.0, lifecycle.long_backoff(slot.progress.failures + 1))
            refusal = Refusal(
                step=refusal.step, reason=refusal.reason, message=refusal.message, permanent=False, after=wait
            )
        slot.progress = lifecycle.failed(
            slot.progress, refusal, now=self._tools.clock(), wall=self._tools.wall(), jitter=self._tools.jitter()
        )
        self._records.load_ended(entry)
        self._stats.swap(entry.name, refusal.reason)
        log.error(
            "version refused, nothing changes for clients",
            extra={
                "model": entry.name,
                "version": entry.version,
                "step": refusal.step,
                "reason": refusal.reason,
                "error": refusal.message,
            },
        )
        self._refusals.remember(slot)


def _tried_again(slot: Slot, entry: Entry) -> bool:
    """Whether what has failed is wanted in a later attempt."""
    return slot.progress.state is State.FAILED and entry.attempt > slot.entry.attempt
