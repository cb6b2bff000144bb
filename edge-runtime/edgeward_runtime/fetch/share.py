"""What a fetch needs, from a peer at the same site if one has it or is about to (peers.py), else from outside."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
from collections.abc import Callable

from edgeward_runtime.artifact.manifest import MAX_MANIFEST_BYTES, Manifest
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.pace import Pace
from edgeward_runtime.fetch.source import Source
from edgeward_runtime.fetch.transfer import Counts, Job, Wanted, transfer
from edgeward_runtime.store.partial import Origin


def blob(wanted: Wanted, job: Job, outside: Callable[[], None]) -> None:
    """Makes the blob, which `outside` does from the sources; the caller holds its lock. Raises Refusal or Cancelled."""
    if job.peers is None:
        outside()
        return

    def take(source: Source, seconds: float) -> None:
        counts = Counts()
        limits = dataclasses.replace(job.limits, total_seconds=seconds)
        # A pace is for the site's link.
        pace = Pace(0.0, clock=job.clock, sleep=job.sleep)
        try:
            transfer(wanted, source, dataclasses.replace(job, limits=limits, pace=pace, counts=counts))
        finally:
            job.counts.shared += counts.received

    job.peers.bring(
        wanted.digest, take=take, outside=outside, received=lambda: job.counts.received, cancelled=job.cancelled
    )


def manifest(digest: str, job: Job, outside: Callable[[], bytes], keep: Callable[[bytes], Manifest]) -> Manifest:
    """What `keep` makes of its bytes once it has verified and kept them: before the turn ends, so that the next pod
    finds it here."""

    def from_outside() -> Manifest:
        content = outside()
        job.counts.received += len(content)
        return keep(content)

    def take(source: Source, _seconds: float) -> Manifest:
        content = b""
        try:
            with source.open(0, Origin()) as opened:
                while len(content) <= MAX_MANIFEST_BYTES and (piece := opened.reader.read1(MAX_MANIFEST_BYTES)):
                    content += piece
        except (OSError, http.client.HTTPException) as error:
            raise refusals.unreachable(source.address, refusals.reason_text(error)) from None
        job.counts.shared += len(content)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise refusals.mismatch(source.address, f"has another manifest than {digest}")
        return keep(content)

    if job.peers is None:
        return from_outside()
    return job.peers.bring(
        digest, take=take, outside=from_outside, received=lambda: job.counts.received, cancelled=job.cancelled
    )
