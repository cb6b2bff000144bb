"""A rollout as a page: the bar first, then what it waits for, then the sites that are not there yet."""

from __future__ import annotations

from collections.abc import Sequence

from edgeward.api.common import parse_time
from edgeward.api.conditions import ConditionType, find
from edgeward.api.modelrelease import ModelRelease, Wave

from . import transfers
from .table import Page

_BAR = 40
_LISTED = 20
_COLOURS = {"Failed": "red", "Offline": "dim", "Pending": "yellow"}
_OUTCOMES = {"Passed": "green", "Failed": "red", "Error": "red", "NoData": "yellow", "Waiting": "dim"}


def lines_of(release: ModelRelease, page: Page, *, now: float, moved: Sequence[transfers.Transfer] = ()) -> list[str]:
    """moved: what the version cost its sites in bytes."""
    status = release.status
    ready = find(status.conditions, ConditionType.READY)
    version = status.target_version or release.spec.version or "?"
    before = f"  (from {status.current_version})" if status.current_version not in (None, version) else ""
    lines = [page.title(f"{release.namespace}/{release.name}  {version}{before}"), *_bar(release, page)]
    said = f"{ready.reason}: {ready.message}" if ready else "the operator has not looked at it yet"
    lines += page.wrap(said, indent="  ", hang="  ")
    following = find(status.conditions, ConditionType.FOLLOWING)
    if following is not None and release.spec.track is not None:
        lines += page.wrap(f"follows {release.spec.track.repository}: {following.message}", indent="  ", hang="  ")
    lines += _waves(release, page, now=now)
    lines += _gates(release, page)
    lines += transfers.lines_of(list(moved), page)
    if status.refused:
        lines += ["", page.title("refused, not tried again until retry")]
        rows = [[one.version or one.identity[:19], one.at, one.reason] for one in status.refused]
        lines += page.table(["VERSION", "AT", "WHY"], rows)
    if status.exceptions:
        lines += ["", page.title("sites that are not there")]
        rows = [
            [
                one.site,
                one.job,
                one.version or "-",
                page.paint(one.state, _COLOURS[one.state]),
                f"{one.reason} {one.message}",
            ]
            for one in status.exceptions[:_LISTED]
        ]
        lines += page.table(["SITE", "JOB", "SERVES", "STATE", "WHY"], rows)
        more = len(status.exceptions) - _LISTED
        if more > 0:
            lines.append(f"  and {more} more: -o yaml")
    return lines


def _bar(release: ModelRelease, page: Page) -> list[str]:
    sites = release.status.sites
    if sites is None or not sites.total:
        return []
    done = sites.updated * _BAR // sites.total
    failed = min(-(-sites.failed * _BAR // sites.total), _BAR - done)
    bar = page.paint("█" * done, "green") + page.paint("▒" * failed, "red") + "░" * (_BAR - done - failed)
    counts = [f"{sites.updated}/{sites.total} sites"]
    counts += [f"{count} {word}" for count, word in ((sites.failed, "failed"), (sites.offline, "offline")) if count]
    return [f"  {bar}  {', '.join(counts)}"]


def _waves(release: ModelRelease, page: Page, *, now: float) -> list[str]:
    said, asked = release.status.rollout, release.spec.rollout
    if said is None or asked is None or not asked.waves:
        return []
    rows = []
    for number, wave in enumerate(asked.waves):
        if said.phase == "RolledBack":
            state = "stopped" if number >= said.wave else "passed"
        elif number < said.wave or said.phase == "Done":
            state = "passed"
        elif number > said.wave:
            state = "to come"
        elif said.phase == "Baking" and said.baking_since is not None:
            state = f"baking for {_length(now - parse_time(said.baking_since))}"
        else:
            state = "changing"
        rows.append([str(number + 1), wave.name, _of(wave), _traffic(wave), wave.bake or "-", state])
    lines = ["", page.title("waves"), *page.table(["#", "NAME", "SITES", "TRAFFIC", "BAKE", "STATE"], rows)]
    if said.waits_for and said.phase in ("Rolling", "Baking"):
        lines += page.wrap(f"waits for {said.waits_for}", indent="  ", hang="  ")
    return lines


def _gates(release: ModelRelease, page: Page) -> list[str]:
    if not release.status.gates:
        return []
    rows = []
    for gate in release.status.gates:
        name = f"{gate.name} {gate.variant[:19]}".strip()
        outcome = page.paint(gate.outcome, _OUTCOMES[gate.outcome])
        rows.append([name, outcome, str(gate.samples), str(gate.passes), str(gate.failures), gate.message or "-"])
    header = ["NAME", "OUTCOME", "SAMPLES", "PASSES IN A ROW", "FAILURES", "WHY"]
    return ["", page.title("gates"), *page.table(header, rows, right=frozenset({2, 3, 4}))]


def _traffic(wave: Wave) -> str:
    """What the new version gets while the wave is watched."""
    copies = f"{wave.mirror}% copied" if wave.mirror else ""
    answers = wave.traffic or ("" if copies else "100%")
    return ", ".join(part for part in (answers, copies) if part)


def _of(wave: Wave) -> str:
    sites = wave.sites
    if sites is None:
        return "all that remain"
    if sites.count is not None:
        return str(sites.count)
    if sites.percent is not None:
        return f"{sites.percent}%"
    if sites.names is not None:
        return ", ".join(sites.names[:3]) + (f" and {len(sites.names) - 3} more" if len(sites.names) > 3 else "")
    return "by labels"


def _length(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole}s" if whole < 120 else f"{whole // 60}m" if whole < 7200 else f"{whole // 3600}h"


def history_of(release: ModelRelease, page: Page) -> list[str]:
    """The versions that finished, the newest first."""
    status = release.status
    if not status.history:
        return ["no version has finished yet"]
    rows = [
        [one.version, one.finished, one.digest[:19], ", ".join(sorted(one.parameters)) or "-"] for one in status.history
    ]
    return page.table(["VERSION", "FINISHED", "DIGEST", "PARAMETERS"], rows, indent="")
