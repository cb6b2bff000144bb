"""Brings what the agent wants live, in a thread of its own: fetch, verify, load, schema check, warm-up, flip, drain,
free.

One rule over all: until the flip the version that serves is not touched, so a failure at any step changes nothing for
clients. At boot the version that served last comes up first, from disk; then the wanted one takes the ordinary way. So
a pod that restarts in the middle of a bad rollout, or without network, answers.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edgeward_runtime import lifecycle, status
from edgeward_runtime.config import Config, ConfigError, Entry, job_of, parse
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.lifecycle import Progress, Refused, Shunned, Slot, State
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model, signature_change
from edgeward_runtime.registry import Registry
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)

_DRAIN_POLL = 0.05  # seconds
_REFUSED_KEPT = 32  # entries in a job's refused record
_CANCEL_CHECK = 0.5  # seconds between looks at the config while a step runs


class Fetch(Protocol):
    def __call__(self, entry: Entry, *, cancelled: Callable[[], bool], shunned: dict[str, Shunned]) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """The rim: everything that touches disk, network, onnxruntime or time."""

    changed_config: Callable[[], bytes | None]
    fetch: Fetch
    load: Callable[[Path, Entry], Model]
    warm: Callable[[Model], float | None]
    call: Callable[[Callable[[], Any]], Any]  # runs it in the event loop's thread and answers its result
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # unix seconds
    jitter: Callable[[], float]  # 0..1
    host: str  # the pod: replicas that share a store must not take each other's loads for crashed ones
    build: str  # versions of this runtime and of onnxruntime: a refusal is remembered for these only


class Manager:
    def __init__(
        self, *, store: Store, registry: Registry, stats: ServerStats, tools: Tools, poll_seconds: float
    ) -> None:
        self._store = store
        self._registry = registry
        self._stats = stats
        self._tools = tools
        self._poll_seconds = poll_seconds
        self._config: Config | None = None
        self._unadopted: bytes | None = None  # a config whose adoption failed, tried again
        self._config_refused: status.ConfigRefused | None = None
        self._slots: dict[str, Slot] = {}
        self._serving: dict[str, status.Serving] = {}
        self._draining: list[Model] = []
        self._booted = False
        self._looked_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeward-models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Asks the thread to end; False if a step that cannot be interrupted, such as loading, still runs."""
        self._stopping.set()
        self._thread.join(timeout=1)
        if not self._thread.is_alive():
            return True
        # The process ends in the middle of a load because it was asked to, not because of the model.
        for slot in list(self._slots.values()):
            self._attempted(slot)
        return False

    def status(self) -> dict[str, object]:
        """Read from the event loop's thread; every part is replaced as a whole by ours."""
        return status.document(
            revision=self._config.revision if self._config else 0,
            wanted={name: (slot.entry, slot.progress) for name, slot in dict(self._slots).items()},
            serving=dict(self._serving),
            config_refused=self._config_refused,
        )

    def _run(self) -> None:
        self._store.clean()
        while not self._stopping.is_set():
            try:
                self.step()
            except Exception:
                # A bug here must not end the thread: the server would go on but never change again.
                log.exception("model manager")
            self._stopping.wait(_DRAIN_POLL if self._draining else self._poll_seconds)

    def step(self) -> None:
        """Looks at the config, works on what is due, frees what is drained. Returns when nothing is left to do now."""
        self._look()
        for slot in list(self._slots.values()):
            # Work on the one before may have brought a new config.
            if self._current(slot) and lifecycle.due(slot.progress, now=self._tools.clock()):
                self._attempt(slot)
        self._free_drained()

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
                self._boot(*job, wanted=None)
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
            extra={"revision": config.revision, "models": [f"{e.name}@{e.version}" for e in config.entries]},
        )
        before = self._slots
        slots: dict[str, Slot] = {}
        for entry in config.entries:
            old = before.get(entry.name)
            slots[entry.name] = old if old is not None and old.entry.key == entry.key else self._new_slot(entry, config)
        self._slots = slots
        names = frozenset(slots)
        self._tools.call(lambda: setattr(self._registry, "wanted", names))
        if not self._booted:
            self._boot(config.namespace, config.job, wanted=config)
        for name in list(self._serving):
            if name not in slots:
                self._retire(self._tools.call(partial(self._registry.drop, name)))
                self._serving = {key: value for key, value in self._serving.items() if key != name}
        self._config = config  # last: its revision in the status says that all this is done

    def _new_slot(self, entry: Entry, config: Config) -> Slot:
        wall = self._tools.wall()
        live = self._serving.get(entry.name)
        if live is not None and live.entry.identity == entry.identity:
            # A rollback to what serves, or only other sources.
            return Slot(entry=entry, progress=live.progress)
        record = self._store.read_record(config.namespace, config.job, "refused").get(_short(entry.key))
        if isinstance(record, dict) and record.get("by") == self._tools.build:
            refused = Refused(
                step=str(record.get("step")),
                reason=str(record.get("reason")),
                message=str(record.get("message")),
                at=float(record.get("at", wall)),
            )
            return Slot(
                entry=entry, progress=Progress(state=State.FAILED, since=refused.at, refused=refused, permanent=True)
            )
        attempt = self._store.read_record(config.namespace, config.job, self._attempting).get(_short(entry.key))
        if isinstance(attempt, dict) and attempt.get("by") == self._tools.build:
            crashes = attempt.get("tries")
            return _crashed(entry, crashes if type(crashes) is int else 1, now=self._tools.clock(), wall=wall)
        return Slot(entry=entry, progress=Progress(since=wall))

    def _boot(self, namespace: str, job: str, *, wanted: Config | None) -> None:
        """Serves what served last, where that is not what is wanted anyway. `wanted` None: the config was refused."""
        self._booted = True
        identities = {entry.name: entry.identity for entry in wanted.entries} if wanted else {}
        for name, record in self._store.read_record(namespace, job, "last-good").items():
            entry = _entry_of_record(name, record)
            if entry is None or (wanted and name not in identities) or identities.get(name) == entry.identity:
                continue
            slot = Slot(entry=entry, progress=Progress(since=self._tools.wall()))
            try:
                path = self._store.verified(entry.digest, cancelled=self._stopping.is_set)
                if path is None:
                    continue
                self._go_live(slot, self._prepare(slot, path))
                log.info("last good version serves", extra={"model": name, "version": entry.version})
            except (Cancelled, Refusal, OSError) as error:
                log.error(
                    "last good version does not load",
                    extra={"model": name, "version": entry.version, "error": str(error)},
                )
        if wanted is None:
            names = frozenset(self._serving)
            self._tools.call(lambda: setattr(self._registry, "wanted", names))

    # -- one entry ------------------------------------------------------------------------------------------------

    def _attempt(self, slot: Slot) -> None:
        try:
            path = self._bring(slot)
            self._attempt_begins(slot)
            try:
                model = self._prepare(slot, path)
            finally:
                self._attempted(slot)
        except Cancelled:
            return
        except Refusal as refusal:
            self._fail(slot, refusal)
            return
        except Exception as error:
            log.exception("bringing a model live")
            step = {State.LOADING: "Load", State.WARMING: "Warm", State.VERIFYING: "Verify"}.get(
                slot.progress.state, "Fetch"
            )
            self._fail(slot, Refusal(step=step, reason="InternalError", message=str(error)[:300], permanent=False))
            return
        if not self._current(slot):
            model.release()
            return
        self._go_live(slot, model)
        self._remember_good()

    def _current(self, slot: Slot) -> bool:
        return self._slots.get(slot.entry.name) is slot and not self._stopping.is_set()

    def _cancelled(self, slot: Slot) -> Callable[[], bool]:
        """Asked often by the steps that take long: the config is looked at meanwhile, so that a rollback does not wait
        for a slow download of what nobody wants any more."""

        def check() -> bool:
            if self._tools.clock() - self._looked_at >= _CANCEL_CHECK:
                self._look()
            return not self._current(slot)

        return check

    def _bring(self, slot: Slot) -> Path:
        """The path of the entry's verified blob."""
        entry, cancelled = slot.entry, self._cancelled(slot)
        if self._store.blob_path(entry.digest).exists():
            self._enter(slot, State.VERIFYING)
            path = self._store.verified(entry.digest, cancelled=cancelled)
            if path is not None:
                slot.progress = replace(slot.progress, size=path.stat().st_size)
                return path
            self._stats.corrupt_blobs += 1
        self._enter(slot, State.FETCHING)
        start = self._tools.clock()
        try:
            fetched = self._tools.fetch(entry, cancelled=cancelled, shunned=slot.shunned)
        except Refusal as refusal:
            if refusal.reason != "DiskFull" or not self._make_room():
                raise
            fetched = self._tools.fetch(entry, cancelled=cancelled, shunned=slot.shunned)
        self._stats.fetched_bytes += fetched
        self._enter(slot, State.VERIFYING)
        path = self._store.blob_path(entry.digest)
        slot.progress = replace(slot.progress, size=path.stat().st_size, seconds=self._tools.clock() - start)
        return path

    def _make_room(self) -> bool:
        wanted = {slot.entry.digest for slot in self._slots.values()}
        wanted |= {live.entry.digest for live in self._serving.values()}
        return self._store.evict(frozenset(wanted)) > 0

    def _prepare(self, slot: Slot, path: Path) -> Model:
        """A loaded and warm model beside the one that serves."""
        start = self._tools.clock()
        self._enter(slot, State.LOADING)
        model = self._tools.load(path, slot.entry)
        live = self._registry.live.get(slot.entry.name)
        change = signature_change(live, model) if live is not None else None
        if change is not None and not slot.entry.parameters.get("allowSchemaChange", False):
            message = f"{change}; set the parameter allowSchemaChange: true if clients are ready for it"
            raise Refusal(step="Load", reason="SchemaChanged", message=message, permanent=True)
        self._enter(slot, State.WARMING)
        self._tools.warm(model)
        self._stats.load_seconds[slot.entry.name] = self._tools.clock() - start
        return model

    def _go_live(self, slot: Slot, model: Model) -> None:
        def flip() -> Model | None:
            self._registry.carry_over(model)
            return self._registry.flip(model)

        old = self._tools.call(flip)
        slot.progress = lifecycle.entered(slot.progress, State.SERVING, wall=self._tools.wall())
        self._serving = {**self._serving, model.name: status.Serving(entry=slot.entry, progress=slot.progress)}
        self._stats.swap(model.name, "Serving")
        log.info("version serves", extra={"model": model.name, "version": model.version, "digest": model.digest})
        self._retire(old)

    def _enter(self, slot: Slot, state: State) -> None:
        slot.progress = lifecycle.entered(slot.progress, state, wall=self._tools.wall())

    def _fail(self, slot: Slot, refusal: Refusal) -> None:
        entry = slot.entry
        slot.progress = lifecycle.failed(
            slot.progress, refusal, now=self._tools.clock(), wall=self._tools.wall(), jitter=self._tools.jitter()
        )
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
        if refusal.permanent and refusal.reason in lifecycle.REMEMBERED and self._config is not None:
            self._remember_refused(entry, slot.progress, self._config)

    # -- what outlives the process --------------------------------------------------------------------------------

    def _remember_refused(self, entry: Entry, progress: Progress, config: Config) -> None:
        assert progress.refused is not None
        refused = progress.refused
        record = self._store.read_record(config.namespace, config.job, "refused")
        record[_short(entry.key)] = {
            "step": refused.step, "reason": refused.reason, "message": refused.message, "at": refused.at, "by":
            self._tools.build,
        }  # fmt: skip
        newest = sorted(record.items(), key=lambda item: item[1].get("at", 0), reverse=True)[:_REFUSED_KEPT]
        self._store.write_record(config.namespace, config.job, "refused", dict(newest))

    @property
    def _attempting(self) -> str:
        return f"attempting-{self._tools.host}"

    def _attempt_begins(self, slot: Slot) -> None:
        """Notes that a load runs. A note that is still there at the next start means that the load ended the process
        (killed for its memory, a crash in native code), and would again: then what served last has to come first.
        Not for a version that served before: nothing else could, and more likely the power went."""
        config = self._config
        if config is None:
            return
        good = self._store.read_record(config.namespace, config.job, "last-good").get(slot.entry.name)
        served = _entry_of_record(slot.entry.name, good)
        if served is not None and served.identity == slot.entry.identity:
            return
        record = self._store.read_record(config.namespace, config.job, self._attempting)
        tries = slot.crashes + 1
        note = {"digest": slot.entry.digest, "tries": tries, "by": self._tools.build}
        wanted = {_short(one.entry.key) for one in self._slots.values()}
        record = {key: value for key, value in record.items() if key in wanted} | {_short(slot.entry.key): note}
        self._store.write_record(config.namespace, config.job, self._attempting, record)

    def _attempted(self, slot: Slot) -> None:
        config = self._config
        if config is None:
            return
        record = self._store.read_record(config.namespace, config.job, self._attempting)
        if record.pop(_short(slot.entry.key), None) is not None:
            self._store.write_record(config.namespace, config.job, self._attempting, record)

    def _remember_good(self) -> None:
        if self._config is None:
            return
        record = {
            name: {
                "version": live.entry.version,
                "digest": live.entry.digest,
                "sources": list(live.entry.sources),
                "parameters": live.entry.parameters,
            }
            for name, live in self._serving.items()
        }
        self._store.write_record(self._config.namespace, self._config.job, "last-good", record)

    # -- draining -------------------------------------------------------------------------------------------------

    def _retire(self, old: Model | None) -> None:
        if old is not None:
            self._draining.append(old)

    def _free_drained(self) -> None:
        """Frees versions that no request holds. They were taken out of the registry in the loop's thread, where
        requests are counted too, so a count of 0 stays 0."""
        still: list[Model] = []
        for model in self._draining:
            if model.inflight:
                still.append(model)
            else:
                model.release()
                log.info("version drained and freed", extra={"model": model.name, "version": model.version})
        self._draining = still


def _crashed(entry: Entry, crashes: int, *, now: float, wall: float) -> Slot:
    message = "the process ended while it loaded this version: out of memory, or a crash in native code"
    refusal = Refusal(
        step="Load", reason="LoadCrashed", message=message, permanent=False, after=lifecycle.long_backoff(crashes)
    )
    progress = lifecycle.failed(Progress(since=wall), refusal, now=now, wall=wall, jitter=0.0)
    return Slot(entry=entry, progress=progress, crashes=crashes)


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _entry_of_record(name: str, record: object) -> Entry | None:
    """A record is a file that anything may have happened to; one that makes no sense is as good as none."""
    if not isinstance(record, dict):
        return None
    version, digest, parameters = record.get("version"), record.get("digest"), record.get("parameters")
    sources = record.get("sources")
    if not (
        isinstance(version, str)
        and isinstance(digest, str)
        and isinstance(parameters, dict)
        and isinstance(sources, list)
    ):
        return None
    hexadecimal = digest.removeprefix("sha256:")
    if len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        return None
    return Entry(name=name, version=version, digest=digest, sources=tuple(map(str, sources)), parameters=parameters)
