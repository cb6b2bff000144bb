"""What a release costs in bytes, and how far those that fetch it are, from its Assignments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeward.api.assignment import Assignment
from edgeward.api.modelrelease import ModelRelease

from .table import Page

_LISTED = 10
_BAR = 20
_FETCHING = ("Fetching", "Verifying")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Of the wanted version at one site."""

    site: str
    size: int
    """bytes of its files, 0 when nobody knows yet"""
    received: int
    """bytes that came to the site"""
    shared: int
    """bytes that one node of the site got from another"""
    seconds: float | None
    """from the order to serving, of the slowest job; None while none serves"""
    fetching: bool


def transfers(release: ModelRelease, assignments: Iterable[Assignment]) -> list[Transfer]:
    """By site, those of several jobs added up. `assignments`: of any job and site."""
    found: dict[str, Transfer] = {}
    for one in assignments:
        wanted = {model.digest for model in one.spec.models if model.name == release.name and model.role != "Previous"}
        if one.spec.job.namespace != release.namespace or not wanted:
            continue
        # Beside a canary, and after a way back, sites have the version before as well: that one does not move.
        current, target = release.status.current_digest, release.status.target_digest
        moving = wanted - {current} if current != target else wanted
        for model in one.status.models:
            if model.digest in moving and model.received is not None:
                before = found.get(one.spec.site)
                took = [float(model.seconds)] if model.seconds and model.serving else []
                took += [before.seconds] if before is not None and before.seconds is not None else []
                found[one.spec.site] = Transfer(
                    site=one.spec.site,
                    size=max(model.bytes or 0, before.size if before else 0),
                    received=model.received + (before.received if before else 0),
                    shared=(model.shared or 0) + (before.shared if before else 0),
                    seconds=max(took, default=None),
                    fetching=model.state in _FETCHING or bool(before and before.fetching),
                )
    return sorted(found.values(), key=lambda one: one.site)


def lines_of(moved: list[Transfer], page: Page) -> list[str]:
    """The sum in a line, then those that fetch."""
    if not moved:
        return []
    sites = "1 site" if len(moved) == 1 else f"{len(moved)} sites"
    whole = sum(one.size for one in moved)
    said = f"{amount(sum(one.received for one in moved))} came to {sites}"
    said += f", whole downloads would be {amount(whole)}" if whole else ""
    shared = sum(one.shared for one in moved)
    said += f"; {amount(shared)} shared inside them" if shared else ""
    took, slowest = max(((one.seconds, one.site) for one in moved if one.seconds is not None), default=(0.0, ""))
    said += f"; it took {took:.3g} s at most, at {slowest}" if slowest else ""
    rows = []
    fetching = [one for one in moved if one.fetching]
    for one in fetching[:_LISTED]:
        done = min(one.received + one.shared, one.size) * _BAR // one.size if one.size else 0
        of = f" of {amount(one.size)}" if one.size else ""
        rows.append([one.site, "█" * done + "░" * (_BAR - done), amount(one.received) + of])
    more = [f"  and {len(fetching) - _LISTED} more"] if len(fetching) > _LISTED else []
    return ["", page.title("bytes"), *page.wrap(said, indent="  ", hang="  "), *page.table(["", "", ""], rows), *more]


def amount(count: int) -> str:
    """Bytes for a person: 12.3 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
