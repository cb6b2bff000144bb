"""The gates of a release: from the API's words to the machine's, what is to be measured while a wave bakes, and what the
measurements came to. Pure.

    BAKING -> watch() into the Assignments, questions() to the hub's Prometheus -> sites and Prometheus report
           -> samples() -> the machine's looks -> looks.py: into status.gates, and back in the next pass
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest

from edgeward.api.assignment import LocalGate, Watch, WatchedQuery
from edgeward.api.common import format_duration, format_time, seconds
from edgeward.api.modelrelease import Gate as AskedGate
from edgeward.fleet.model import Answer, Fleet, ModelVersion, Release, SiteModels
from edgeward.rollout import gates, pool
from edgeward.rollout.looks import MOST_LOOKS
from edgeward.rollout.model import Gate, Phase, Progress, Question, Sample
from edgeward.rollout.template import Unresolvable, any_of, resolved
from edgeward.rollout.variants import digests

INTERVAL = 30.0
"""seconds between two looks of a gate that does not say"""
SHORTEST = 1.0
"""seconds between two looks; the API's times are whole seconds"""
MOST_OTHERS = 100
"""sites of the version before that are asked to report, so that there is something to compare with: more would tell nothing
new, and each report is a write"""


def machine_gates(asked: Sequence[AskedGate]) -> tuple[Gate, ...]:
    """With the defaults that docs/releases.md names. The longest warm-up holds for all gates: they count from one moment,
    and none must be judged by another's warm-up."""
    warm_up = max((seconds(one.initial_delay) for one in asked if one.initial_delay), default=0.0)
    return tuple(_gate(one, warm_up) for one in asked)


def _gate(asked: AskedGate, warm_up: float) -> Gate:
    return Gate(
        name=asked.name,
        builtin=asked.builtin or "",
        query=asked.query or "",
        at_hub=asked.query is not None and asked.evaluate_at == "Hub",
        max=float(asked.max) if asked.max is not None else None,
        min=float(asked.min) if asked.min is not None else None,
        baseline=asked.compare == "Baseline",
        initial_delay=warm_up,
        interval=max(seconds(asked.interval), SHORTEST) if asked.interval else INTERVAL,
        count=asked.count if asked.count is not None else 1,
        # Restarts are counted by site, whatever was asked of it.
        min_samples=(asked.min_samples or 0) if asked.builtin != "CrashLoop" else 0,
        passes_needed=asked.consecutive_success_limit or 1,
        failure_limit=asked.failure_limit or 0,
        no_data_fails=asked.on_no_data == "Fail",
    )


def local_gates(release: Release) -> tuple[LocalGate, ...]:
    """What a site checks by itself, also while it is cut off; it compares with what the old version did there. A release
    that goes back only when somebody says so does not go back site by site either. The hub looks first, whose verdict
    holds for all sites and is told by gate and value: a site begins two intervals later."""
    if not release.automatic_rollback:
        return ()
    return tuple(
        LocalGate(
            name=one.name,
            builtin=one.builtin,
            compare=one.compare or "Absolute",
            max=one.max,
            min=one.min,
            initial_delay=_after_the_hub(one),
            interval=one.interval,
            min_samples=one.min_samples or 0,
            failure_limit=one.failure_limit or 0,
        )
        for one in release.gates
        if one.builtin is not None
    )


def _after_the_hub(asked: AskedGate) -> str:
    delay, interval = (seconds(text) if text else 0.0 for text in (asked.initial_delay, asked.interval))
    return format_duration(delay + 2 * (interval or INTERVAL))


# -- what is watched ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A wave that bakes, and whom its gates ask."""

    release: Release
    gates: tuple[Gate, ...]
    began: float
    """when the bake began"""
    since: float
    """what is measured counts from here: the end of the warm-up, in whole seconds as the API has it"""
    wave: str
    target: ModelVersion
    old: ModelVersion | None
    mine: tuple[SiteModels, ...]
    """jobs at the wave's sites that were told the target"""
    others: tuple[SiteModels, ...]
    """those that still have the version before"""
    roles: Mapping[tuple[str, str], bool]
    """by job and site: whether it is one of `mine`; else one of `others`, or not there"""
    beside: bool
    """whether the old version answers at the wave's own sites, too"""

    def by_variant(self) -> Mapping[str, tuple[SiteModels, ...]]:
        """The wave's jobs by the digest that they take, "" for the main artifact."""
        found: dict[str, list[SiteModels]] = {}
        for one in self.mine:
            version = one.beside or one.told
            digest = version.digest if version is not None else self.target.digest
            key = "" if digest == self.target.digest else digest
            found.setdefault(key, []).append(one)
        if not found or len(found) * len(self.gates) > MOST_LOOKS:
            return {"": self.mine}
        return {key: tuple(found[key]) for key in sorted(found)}


def round_of(
    release: Release,
    parts: Sequence[SiteModels],
    progress: Progress | None,
    *,
    stable: str | None,
    known: Mapping[str, ModelVersion],
) -> Round | None:
    """None while nothing is watched. parts: what takes part in the rollout. stable: identity of the version before."""
    target = release.target
    if progress is None or target is None or progress.target != target.identity or not release.gates:
        return None
    if progress.phase is not Phase.BAKING or progress.baking_since is None:
        return None
    told = [one for one in parts if one.replicas and _told(one, target)]
    mine = [one for one in told if one.site in progress.members] if progress.members else told
    waves = release.rollout.waves if release.rollout is not None else ()
    old = known.get(stable) if stable is not None and stable != target.identity else None
    asked = machine_gates(release.gates)
    others = some([one for one in parts if one.replicas and old is not None and _told(one, old)])
    roles = {(one.job, one.site): False for one in others} | {(one.job, one.site): True for one in mine}
    return Round(
        release=release,
        gates=asked,
        began=progress.baking_since,
        since=float(int(progress.baking_since + asked[0].initial_delay)),
        wave=waves[progress.wave].name if progress.wave < len(waves) else "all",
        target=target,
        old=old,
        mine=tuple(mine),
        others=others,
        roles=roles,
        beside=any(one.beside is not None for one in mine),
    )


def some(others: Sequence[SiteModels]) -> tuple[SiteModels, ...]:
    """The same few of many, whoever asks and whatever order they come in."""
    if len(others) <= MOST_OTHERS:
        return tuple(others)
    return tuple(
        nsmallest(MOST_OTHERS, others, key=lambda one: hashlib.sha256(f"{one.job}/{one.site}".encode()).digest())
    )


def failing(round_: Round | None) -> frozenset[tuple[str, str]]:
    """By job and site: who answers with more errors than a gate lets pass."""
    if round_ is None:
        return frozenset()
    return frozenset(
        (one.job, one.site)
        for one in (*round_.mine, *round_.others)
        if (version := one.beside or one.told) is not None
        and pool.fails_too_often(round_.gates, one.counters, version.digest, since=round_.since)
    )


def _told(one: SiteModels, version: ModelVersion) -> bool:
    told = one.beside or one.told
    return told is not None and told.digest in digests(version) and dict(told.parameters) == dict(version.parameters)


def watch(round_: Round | None, one: SiteModels) -> Watch | None:
    """What the job's agent is to report. The other sites report only while a gate compares with the old version, and no
    canary lets the wave's own sites tell."""
    if round_ is None:
        return None
    asked = [gate for gate in round_.gates if not gate.at_hub]
    mine = round_.roles.get((one.job, one.site))
    if mine:
        queries = tuple(_watched(round_, gate, one) for gate in asked if gate.query and _problem(round_, gate) == "")
    elif mine is False and not round_.beside and any(gate.baseline for gate in asked):
        asked = [gate for gate in asked if gate.baseline]
        queries = tuple(
            WatchedQuery(name=gate.name, query=_resolved(round_, gate, (one,), round_.old))
            for gate in asked
            if gate.query and _problem(round_, gate) == ""
        )
    else:
        return None
    if not asked:
        return None
    return Watch(
        since=format_time(round_.since),
        interval=format_duration(min(gate.interval for gate in asked)),
        queries=queries,
    )


def _watched(round_: Round, gate: Gate, one: SiteModels) -> WatchedQuery:
    before = _resolved(round_, gate, (one,), round_.old) if gate.baseline and one.beside is not None else None
    return WatchedQuery(
        name=gate.name, query=_resolved(round_, gate, (one,), one.beside or one.told), baseline_query=before
    )


def _resolved(round_: Round, gate: Gate, at: Sequence[SiteModels], version: ModelVersion | None) -> str:
    """About one version at some sites; several names are one for =~."""
    jobs = [one.job.partition("/") for one in at]
    return resolved(
        gate.query,
        {
            "model": round_.release.name,
            "version": version.version if version is not None else "",
            "digest": version.digest if version is not None else "",
            "site": any_of(one.site for one in at),
            "wave": round_.wave,
            "job": any_of(name for _, _, name in jobs),
            "namespace": any_of(space for space, _, _ in jobs),
        },
    )


def _problem(round_: Round, gate: Gate) -> str:
    """Why the gate's query cannot be asked anywhere; empty when it can. At each site alone it is shorter."""
    try:
        for one in round_.mine[:1] if not gate.at_hub else (round_.mine,):
            _resolved(round_, gate, one if isinstance(one, tuple) else (one,), round_.target)
    except Unresolvable as error:
        return str(error)
    return ""


def questions(round_: Round | None, progress: Progress, *, now: float) -> tuple[Question, ...]:
    """What the hub's Prometheus is to be asked, and by when."""
    if round_ is None:
        return ()
    found: dict[str, Question] = {}
    known = {(one.gate, one.variant): one for one in progress.looks}
    for gate in round_.gates:
        if not gate.at_hub:
            continue
        for variant, mine in round_.by_variant().items():
            due = gates.due(gate, known.get((gate.name, variant)), since=round_.began, now=now)
            for text in _texts(round_, gate, variant, mine):
                if text is not None:
                    question = Question(query=text, since=round_.since, due=due, interval=gate.interval)
                    found[question.key] = question
    return tuple(found.values())


def _texts(round_: Round, gate: Gate, variant: str, mine: Sequence[SiteModels]) -> tuple[str | None, str | None]:
    """The question about the new version, and the one about the old; None: it cannot be asked, or need not."""
    new = replace(round_.target, digest=variant) if variant else round_.target
    before = mine if round_.beside else round_.others
    try:
        text = _resolved(round_, gate, mine, new)
        needs = gate.baseline and round_.old is not None and bool(before)
        return text, _resolved(round_, gate, before, round_.old) if needs else None
    except Unresolvable:
        return None, None


# -- what the measurements came to --------------------------------------------------------------------------------------


def samples(round_: Round, progress: Progress, fleet: Fleet) -> Mapping[tuple[str, str], Sample]:
    """By gate and variant."""
    connected = {site.name for site in fleet.sites if site.connected}
    remembered = {(one.gate, one.variant): one.baseline for one in progress.looks}
    others = [_part(round_, one, connected) for one in round_.others]
    found: dict[tuple[str, str], Sample] = {}
    for variant, mine in round_.by_variant().items():
        parts = [_part(round_, one, connected) for one in mine]
        for gate in round_.gates:
            before = remembered.get((gate.name, variant))
            if gate.builtin:
                sample = pool.counted(gate, parts, others, since=round_.since, remembered=before)
            elif problem := _problem(round_, gate):
                sample = Sample(at=fleet.now, error=problem)
            elif gate.at_hub:
                sample = _answered(round_, gate, variant, mine, fleet.answers, before)
            else:
                sample = pool.asked(gate, parts, others, since=round_.since, remembered=before)
                sample = replace(sample, query=_resolved(round_, gate, mine[:1], round_.target))
            found[gate.name, variant] = sample
    return found


def _part(round_: Round, one: SiteModels, connected: set[str]) -> pool.Part:
    version = one.beside or one.told
    new = version.digest if version is not None else ""
    refuses = any(said.digest == new and said.refused_step and not said.serving for said in one.served)
    old = frozenset(digests(round_.old)) if round_.old is not None else frozenset()
    mine = round_.roles[one.job, one.site]
    return pool.Part(
        site=one.site,
        new=new,
        old=old - {new} if mine else old,
        needed=one.site in connected and not refuses,
        counters=one.counters,
        results=one.results,
    )


def _answered(
    round_: Round,
    gate: Gate,
    variant: str,
    mine: Sequence[SiteModels],
    answers: Mapping[str, Answer],
    remembered: float | None,
) -> Sample:
    texts = _texts(round_, gate, variant, mine)
    asked = [text for text in texts if text is not None]
    keys = [Question(query=text, since=round_.since, due=0.0, interval=0.0).key for text in asked]
    said = [answers.get(key) for key in keys]
    new, old = said[0], said[1] if len(said) > 1 else None
    late = "the hub's Prometheus has not answered yet"
    if new is None or (len(said) > 1 and old is None):
        return Sample(at=0.0, late=late, query=asked[0])
    return Sample(
        at=min(one.at for one in said if one is not None),
        value=new.value,
        baseline=old.value if old is not None and old.value is not None else remembered,
        samples=new.samples,
        error=new.error or (old.error if old is not None else ""),
        late=late,
        query=asked[0],
    )
