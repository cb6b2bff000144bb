"""Sites, an operator that may die between any two of its writes, and a clock: what the state machine is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeward.rollout.machine import advance
from edgeward.rollout.model import Command, Decision, Facts, Gate, Member, Progress, Refused, Sample, Strategy, Told


@dataclass
class Site:
    connected: bool = True
    told: str | None = None
    beside: str | None = None
    serves: str | None = None
    refuses: set[str] = field(default_factory=set)
    """versions that its own checks do not let live"""
    refused: set[str] = field(default_factory=set)
    """those that it was told and said so of"""
    broken: bool = False
    """no replica is ready, for reasons of its own"""
    opened: float | None = None
    """since when its window is open, inf while it is shut; None: it has none"""
    timed: bool = field(default=False, compare=False)
    """what it was told last may begin within its window only"""
    staged: set[str] = field(default_factory=set, compare=False)
    """versions on its disks that have not begun"""

    def change(self) -> None:
        """What the site does when it hears: in place, keeping what serves if the new one is refused."""
        wanted = self.beside or self.told
        if not self.connected or wanted is None:
            return
        if self.timed and self.opened == math.inf and self.serves not in (None, wanted):
            self.staged.add(wanted)
        elif wanted in self.refuses:
            self.refused.add(wanted)
        else:
            self.serves = wanted


@dataclass
class World:
    sites: dict[str, Site]
    strategy: Strategy = field(default_factory=Strategy)
    target: str = "v1"
    now: float = 1000.0
    # what is written
    progress: Progress | None = None
    stable: str | None = None
    refused: tuple[Refused, ...] = ()
    command: Command | None = None
    verdicts: dict[tuple[str, str], Sample] = field(default_factory=dict)
    history: list[Decision] = field(default_factory=list)
    steps: list[tuple[Facts, Decision]] = field(default_factory=list)

    def facts(self) -> Facts:
        members = tuple(
            Member(
                name=name,
                connected=site.connected,
                told=site.beside or site.told,
                base=site.told,
                serves=site.serves,
                refused="its own check"
                if self.target in site.refused and self.target in (site.told, site.beside)
                else "",
                available=site.serves is not None and not site.broken,
                staged=self.target in site.staged and site.serves != self.target,
                begins=site.opened,
            )
            for name, site in sorted(self.sites.items())
        )
        return Facts(
            now=self.now,
            target=self.target,
            stable=self.stable,
            strategy=self.strategy,
            members=members,
            progress=self.progress,
            refused=self.refused,
            samples=self.verdicts,
            command=self.command,
        )

    def operator(self, *, dies_after: int | None = None) -> Decision:
        """One step, written in its order: first what is remembered, then site by site. `dies_after` that many writes."""
        facts = self.facts()
        decision = advance(facts)
        self.history.append(decision)
        self.steps.append((facts, decision))
        if dies_after == 0:
            return decision
        self.progress, self.stable, self.refused = decision.progress, decision.stable, decision.refused
        for number, (name, told) in enumerate(sorted(decision.told.items())):
            if dies_after is not None and number + 1 >= dies_after:
                break
            self.tell(name, told)
        return decision

    def tell(self, name: str, told: Told) -> None:
        site = self.sites[name]
        site.told, site.beside = told.version, told.beside
        site.timed = (told.beside or told.version) == self.target

    def settle(self, *, steps: int = 60, seconds: float = 10.0, passing: bool = True) -> Decision:
        """Everybody does what he should, and the gates see what they want."""
        decision = self.operator()
        for _ in range(steps):
            self.now += seconds
            if passing:
                self.look(1.0)
            for site in self.sites.values():
                site.change()
            decision = self.operator()
        return decision

    def look(self, value: float | None, *, error: str = "", samples: int = 1000, age: float = 0.0) -> None:
        sample = Sample(at=self.now - age, value=value, baseline=1.0, samples=samples, error=error)
        self.verdicts = {(gate.name, ""): sample for gate in self.strategy.gates}

    def serving(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for site in self.sites.values():
            found[str(site.serves)] = found.get(str(site.serves), 0) + 1
        return found


def town(count: int, **more: object) -> World:
    """A world where every site serves v0, which finished, and v1 is wanted."""
    sites = {f"s{index:02}": Site(told="v0", serves="v0") for index in range(count)}
    return replace(World(sites=sites, stable="v0"), **more)  # type: ignore[arg-type]


ERRORS = Gate(name="errors", max=2.0, count=2, interval=10.0)
