"""Whether a site goes back from a new version by itself. No I/O and no clock: it is told of every look at the runtimes.

The hub names the new version, what the site goes back to, and the gates that the site asks by itself
(AssignedModel.localGates). They are asked here of what the site's own runtimes counted, by the same rules as the hub's, so
a verdict needs neither the hub nor a Prometheus. What a gate has seen so far is kept in this process alone: an agent that
is started again in the middle asks anew. Its verdict is kept in the site's memory (memory.py) and holds for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from edgeward.api.assignment import AssignedModel, Assignment, Counters, LocalGate, RefusedHere
from edgeward.api.common import format_time
from edgeward.api.quantity import seconds
from edgeward.rollout import gates, pool
from edgeward.rollout.model import Gate, Look

from .counters import Looked, Tally
from .memory import GATE, fallen, is_about, refused
from .wanted import Pair, identity, pairs

CRASH_LOOP = "CrashLoop"
INTERVAL = 30.0
"""seconds between two looks through a gate that does not say"""


@dataclass(slots=True)
class _Trial:
    """A new version at this site, from the moment that it was told of it."""

    pair: Pair
    begun: float
    tally: Tally = field(default_factory=Tally)
    serves_since: float | None = None
    """since when a pod serves it"""
    before: dict[str, float] = field(default_factory=dict)
    """by gate: what the version before was measured at until then"""
    looks: dict[str, Look] = field(default_factory=dict)
    over: bool = False


@dataclass(slots=True)
class _Site:
    tally: Tally = field(default_factory=Tally)
    """since this agent knows the Assignment: what the version before is held to where it serves no more"""
    trials: dict[str, _Trial] = field(default_factory=dict)
    """by name of the model"""


class Fallbacks:
    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}

    def forget(self, name: str) -> None:
        self._sites.pop(name, None)

    def due(self, name: str) -> float | None:
        """When the runtimes of an Assignment should be looked at again (Unix seconds); None: no gate asks."""
        site = self._sites.get(name)
        found = [
            look.at + gate.interval
            if look is not None and look.checks
            else (trial.serves_since or trial.begun) + max(gate.initial_delay, gate.interval)
            for trial in (site.trials.values() if site else ())
            if not trial.over
            for gate in map(_gate, trial.pair.new.local_gates)
            for look in (trial.looks.get(gate.name),)
        ]
        return min(found, default=None)

    def note(self, name: str, wanted: Sequence[str], pods: Sequence[Looked], *, at: float) -> None:
        """A look at all pods of an Assignment without gates: what the version does now, a later one may be held to. wanted:
        digests."""
        site = self._sites.setdefault(name, _Site())
        site.trials.clear()
        site.tally.look(pods, at=at, wanted=wanted)

    def look(
        self,
        assignment: Assignment,
        pods: Sequence[Looked],
        known: Iterable[RefusedHere],
        *,
        at: float,
        judge: bool = True,
        waiting: Collection[str] = (),
    ) -> list[RefusedHere]:
        """A look at all pods of an Assignment: the versions that the site goes back from because of it.

        known: what the site remembers already; what it went back from is not asked about again. judge: whether its gates
        are asked at this look. waiting: identities of versions that wait on the disks for their moment: they have done
        nothing yet that they could be judged by.
        """
        site = self._sites.setdefault(assignment.name, _Site())
        wanted = [model.digest for model in assignment.spec.models if model.role != "Previous"]
        site.tally.look(pods, at=at, wanted=wanted)
        gone = fallen(known)
        present = {
            pair.new.name: pair
            for pair in pairs(assignment.spec.models)
            if pair.back is not None
            and pair.new.local_gates
            and identity(pair.new) not in gone
            and identity(pair.new) not in waiting
        }
        for name in site.trials.keys() - present.keys():
            del site.trials[name]
        verdicts = []
        for name, pair in present.items():
            trial = site.trials.get(name)
            if trial is None or _about(trial.pair) != _about(pair):
                trial = site.trials[name] = _Trial(pair=pair, begun=float(int(at)))
                trial.before = _measured(pair, site.tally)
            trial.pair = pair
            trial.tally.look(pods, at=at, wanted=wanted)
            if trial.serves_since is None and any(_serves(one, pair.new) for one in pods):
                trial.serves_since = float(int(at))
            reason = "" if trial.over or not judge else _judged(trial, assignment.spec.site, at=at)
            if reason:
                trial.over = True
                verdicts.append(refused(pair.new, step=GATE, reason=reason, at=format_time(at)))
        return verdicts


def _about(pair: Pair) -> tuple[str, int]:
    return identity(pair.new), pair.new.attempt


def _serves(pod: Looked, model: AssignedModel) -> bool:
    return pod.answer is not None and any(is_about(entry, model) and entry["serving"] for entry in pod.answer["models"])


def _measured(pair: Pair, tally: Tally) -> dict[str, float]:
    old = [one for one in _counters(tally, since=0.0) if pair.back is not None and one.digest == pair.back.digest]
    found = {}
    for gate in map(_gate, pair.new.local_gates):
        value, samples = pool.measured(gate.builtin, old)
        if value is not None and samples >= max(1, gate.min_samples):
            found[gate.name] = value
    return found


def _judged(trial: _Trial, site: str, *, at: float) -> str:
    """Why the site goes back; empty: it does not."""
    for gate in map(_gate, trial.pair.new.local_gates):
        # Restarts count from the start: a version may bring its process down before anybody has seen it serve.
        since = trial.begun if gate.builtin == CRASH_LOOP else trial.serves_since
        if since is None:
            continue
        part = _part(trial, site, since=since)
        sample = pool.counted(gate, [part], [], since=since, remembered=trial.before.get(gate.name))
        look = trial.looks[gate.name] = gates.looked(gate, trial.looks.get(gate.name), sample, since=since, now=at)
        if gates.failed(gate, look):
            return f"gate {gate.name}: {look.message}"
    return ""


def _part(trial: _Trial, site: str, *, since: float) -> pool.Part:
    new, back = trial.pair.new, trial.pair.back
    old = frozenset({back.digest}) - {new.digest} if back is not None else frozenset()
    return pool.Part(site=site, new=new.digest, old=old, counters=tuple(_counters(trial.tally, since=since)))


def _counters(tally: Tally, *, since: float) -> list[Counters]:
    return [Counters.model_validate({**one, "since": format_time(since)}) for one in tally.counters()]


def _gate(asked: LocalGate) -> Gate:
    return Gate(
        name=asked.name,
        builtin=asked.builtin,
        max=float(asked.max) if asked.max is not None else None,
        min=float(asked.min) if asked.min is not None else None,
        baseline=asked.compare == "Baseline",
        initial_delay=seconds(asked.initial_delay) if asked.initial_delay else 0.0,
        interval=seconds(asked.interval) if asked.interval else INTERVAL,
        min_samples=asked.min_samples,
        failure_limit=asked.failure_limit,
    )
