"""Brings a model into the store, from its sources in order.

The digest makes every source equal and plain http safe. A source that answers with other bytes is asked again
only after a long while, each time a longer one: a login page in between or a half-copied file pass, and each try costs
a download. One that cannot be reached is asked again soon, or when it said that it may be. Failures carry the reason
that the agent shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact import manifest as manifests
from edgeward_runtime.artifact.manifest import Manifest
from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import http, local, oci, outside, refusals, s3, share
from edgeward_runtime.fetch.access import Access, Limits
from edgeward_runtime.fetch.pace import Pace
from edgeward_runtime.fetch.peers import Peers
from edgeward_runtime.fetch.source import Source
from edgeward_runtime.fetch.stats import FetchStats
from edgeward_runtime.fetch.transfer import Job, Wanted
from edgeward_runtime.lifecycle import Shunned, Tally, long_backoff
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)

_SOME_ROOM = 1 << 20  # bytes
SCHEMES = ("oci", "https", "http", "s3", "file")
_AT_ONCE = ("DiskFull", "StoreUnwritable")  # of the store, so no other source helps
_LONG = ("DigestMismatch", "Empty")
# Which of several sources' reasons is the one to show: wrong bytes say more than a source that is away.
_WEIGHT = (
    "DigestMismatch",
    "UnsafePath",
    "UnsupportedArtifact",
    "Empty",
    "TooLarge",
    "Unauthorized",
    "NotFound",
    "Unreachable",
    "UnsupportedSource",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """`path` is a model's file or the folder of an artifact, verified. Bytes that came over the network or were taken
    over from an earlier try; both 0 if another pod had done it, and no source then."""

    path: Path
    received: int = 0
    resumed: int = 0
    source: str = ""  # without user, password and query


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tools:
    store: Store
    limits: Limits
    access: Access
    cancelled: Callable[[], bool]
    stats: FetchStats | None
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    jitter: Callable[[], float]
    peers: Peers | None
    tally: Tally


def fetch(
    entry: Entry,
    *,
    store: Store,
    limits: Limits,
    cancelled: Callable[[], bool],
    shunned: dict[str, Shunned],
    access: Access | None = None,
    stats: FetchStats | None = None,
    peers: Peers | None = None,
    tally: Tally | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> Fetched:
    """Puts the entry's model into the store. `tally` is told of the bytes as they come.

    `shunned` remembers, over the attempts at one entry, the sources that are not to be asked and until when. Raises
    Refusal (permanent only if no source is ever to be asked again) or Cancelled.
    """
    tools = _Tools(
        store=store,
        limits=limits,
        access=access or Access(),
        cancelled=cancelled,
        stats=stats,
        clock=clock,
        sleep=sleep,
        jitter=jitter,
        peers=peers,
        tally=tally or Tally(),
    )
    try:
        return _fetch(entry, tools, shunned)
    except Refusal as refusal:
        # Where a transfer finds too little room it makes some itself; this is for the small files around it.
        if refusal.reason != "DiskFull" or not store.free(_SOME_ROOM):
            raise
    return _fetch(entry, tools, shunned)


def _fetch(entry: Entry, tools: _Tools, shunned: dict[str, Shunned]) -> Fetched:
    store, clock = tools.store, tools.clock
    rates = [rate for rate in (tools.limits.bits_per_second, entry.pace) if rate]
    pace = Pace(min(rates, default=0.0), clock=clock, sleep=tools.sleep)
    cancelled = tools.cancelled
    with store.locked(entry.digest, cancelled=cancelled):
        path = store.find(entry.digest, cancelled=cancelled)
        if path is not None:
            return Fetched(path=path)
        failures: list[Refusal] = []
        for source in entry.sources:
            before = shunned.get(source)
            if before is not None and clock() < before.until:
                continue
            job = Job(
                store=store,
                limits=tools.limits,
                pace=pace,
                cancelled=cancelled,
                clock=clock,
                sleep=tools.sleep,
                jitter=tools.jitter,
                peers=tools.peers,
            )
            tools.tally.follow(job.counts)
            result, start = "Cancelled", clock()
            try:
                path = _from_source(
                    source, entry.digest, tools.access, job, beside=_beside(entry, source, shunned, clock())
                )
                result = "Fetched"
            except Refusal as refusal:
                result = refusal.reason
                _log_failure(source, refusal, job)
                if refusal.reason in _AT_ONCE:
                    raise
                until = _shun(refusal, before, clock())
                if until is None:
                    shunned.pop(source, None)
                    failures.append(refusal)
                else:
                    shunned[source] = until
            else:
                shown = refusals.shown(source)
                log.info("model fetched", extra={"source": shown, "bytes": job.counts.received})
                return Fetched(path=path, received=job.counts.received, resumed=job.counts.resumed, source=shown)
            finally:
                tools.tally.settle()
                if tools.stats is not None:
                    tools.stats.shared += job.counts.shared
                    received, resumed = job.counts.received, job.counts.resumed
                    tools.stats.add(
                        refusals.shown(source),
                        result,
                        received=received,
                        resumed=resumed,
                        reused=job.counts.reused,
                        seconds=clock() - start,
                        by={refusals.shown(label): count for label, count in job.counts.by.items()},
                    )
        raise _worst(entry, failures, shunned, clock())


def _shun(refusal: Refusal, before: Shunned | None, now: float) -> Shunned | None:
    if refusal.permanent:
        return Shunned(refusal, 1, math.inf)
    if refusal.reason in _LONG:
        times = before.failures + 1 if before is not None else 1
        return Shunned(refusal, times, now + long_backoff(times))
    if refusal.after is not None:
        return Shunned(refusal, 0, now + refusal.after)
    return None


def _worst(entry: Entry, failures: list[Refusal], shunned: dict[str, Shunned], now: float) -> Refusal:
    every = [*failures, *(shunned[source].refusal for source in entry.sources if source in shunned)]
    if not every:
        return refusals.refusal("UnsupportedSource", "there is no source", permanent=True)
    worst = min(every, key=lambda refusal: _WEIGHT.index(refusal.reason))
    # Those that failed for now are asked soon, whatever the others are.
    first = 0.0 if failures else min(shunned[source].until for source in entry.sources)
    return Refusal(
        step=worst.step,
        reason=worst.reason,
        message=worst.message,
        permanent=first == math.inf,
        after=None if failures or first == math.inf else max(0.0, first - now),
    )


def _log_failure(source: str, refusal: Refusal, job: Job) -> None:
    said = {"source": refusals.shown(source), "reason": refusal.reason, "error": refusal.message}
    log.warning("source failed", extra={**said, "bytes": job.counts.received})


def _beside(entry: Entry, source: str, shunned: dict[str, Shunned], now: float) -> str | None:
    """Another source that may give parts at the same time: only of the same kind, since a digest is that of a manifest or
    of a file."""
    for one in entry.sources:
        known = shunned.get(one)
        alike = one.startswith("oci://") == source.startswith("oci://")
        if one != source and alike and (known is None or known.until <= now):
            return one
    return None


def _from_source(source: str, digest: str, access: Access, job: Job, *, beside: str | None) -> Path:
    scheme = source.partition("://")[0]
    try:
        urllib.parse.urlsplit(source)
    except ValueError as error:
        raise refusals.unsupported(source, str(error)) from None
    if scheme not in SCHEMES:
        raise refusals.unsupported(source, f"this runtime fetches from {', '.join(SCHEMES)}")
    if scheme == "oci":
        return _artifact(source, digest, access, job, beside=beside)
    stop = threading.Event()
    sources = [_plain_source(scheme, source, access, job)]
    with contextlib.suppress(Refusal):
        if beside is not None:
            helping = dataclasses.replace(job, cancelled=stop.is_set)
            sources.append(_plain_source(beside.partition("://")[0], beside, access, helping))
    share.blob(Wanted(digest=digest), job, lambda: outside.plain(Wanted(digest=digest), sources, job, stop=stop))
    return job.store.blob_path(digest)


def _plain_source(scheme: str, address: str, access: Access, job: Job) -> Source:
    if scheme == "file":
        return local.source(address)
    client = _client(access, job)
    if scheme == "s3":
        return s3.source(address, client=client, access=access)
    return http.source(address, client=client, access=access)


def _client(access: Access, job: Job) -> http.Client:
    limits = job.limits
    return http.Client(
        timeout=limits.timeout_seconds,
        ca_bundle=access.ca_bundle,
        total=limits.total_seconds,
        cancelled=job.cancelled,
        clock=job.clock,
    )


def _artifact(source: str, digest: str, access: Access, job: Job, *, beside: str | None) -> Path:
    """The manifest, then each layer that is not there yet, then the folder."""
    client = _client(access, job)
    repository = oci.Repository(source, digest=digest, client=client, access=access)
    store, stop = job.store, threading.Event()
    repositories = [repository]
    with contextlib.suppress(Refusal):
        if beside is not None:
            helping = _client(access, dataclasses.replace(job, cancelled=stop.is_set))
            repositories.append(oci.Repository(beside, digest=digest, client=helping, access=access))
    manifest = store.manifest(digest) or _manifest(repository, digest, job)
    with store.needed(frozenset(layer.digest for layer in manifest.layers)):
        missing = {
            layer.digest: layer.size
            for layer in manifest.layers
            if store.verified(layer.digest, cancelled=job.cancelled) is None
        }
        store.room(missing)
        files = outside.Artifact(repositories=repositories, manifest=manifest, job=job, stop=stop)
        for blob, size in missing.items():
            with store.locked(blob, cancelled=job.cancelled):
                if store.verified(blob, cancelled=job.cancelled) is None:
                    wanted = Wanted(digest=blob, size=size)
                    share.blob(wanted, job, functools.partial(files.file, wanted))
        return store.release(digest, manifest)


def _manifest(repository: oci.Repository, digest: str, job: Job) -> Manifest:
    def keep(content: bytes) -> Manifest:
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != digest:
            raise refusals.mismatch(repository.address, f"has a manifest of {found}, wanted {digest}")
        manifest = manifests.parse(content, max_bytes=job.limits.max_bytes)
        job.store.room({digest: len(content)})
        job.store.put_manifest(digest, content)
        return manifest

    return share.manifest(digest, job, lambda: repository.manifest(digest), keep)
