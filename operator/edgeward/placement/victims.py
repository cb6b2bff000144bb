"""Which replicas would have to give way for one more to fit: candidates, sums over them, and the choice among sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeward.fleet.model import Resources
from edgeward.placement.decide import Decision
from edgeward.placement.incumbents import Standing


@dataclass(slots=True)
class Victim:
    """One replica that might give way."""

    owner: Decision
    standing: Standing
    begun: float
    """when it was decided for or its pod started, whichever was later"""
    shield: str = ""
    """why it may not be taken, for people; empty when it may"""

    @property
    def request(self) -> Resources:
        return self.owner.ask.request

    @property
    def tier(self) -> int:
        return self.owner.turn.own_tier


def amounts(one: Resources) -> dict[str, int]:
    named = {"cpu": one.cpu, "memory": one.memory, "pods": one.pods, "ephemeral-storage": one.storage}
    return {**named, **dict(one.extended)}


def covered(lack: Resources, requests: Iterable[Resources]) -> bool:
    total = Resources()
    for request in requests:
        total += request
    return total.covers(lack)


def least_of(lack: Resources, requests: Sequence[Resources]) -> int | None:
    """The fewest of these requests whose sum could cover the lack, looking at one resource at a time; None: not even
    all of them."""
    fewest = 0
    for name, amount in amounts(lack).items():
        if amount <= 0:
            continue
        count = 0
        for size in sorted((amounts(request).get(name, 0) for request in requests), reverse=True):
            if amount <= 0:
                break
            amount -= size
            count += 1
        if amount > 0:
            return None
        fewest = max(fewest, count)
    return fewest


def worth(chosen: Iterable[Victim]) -> tuple[list[int], list[float], list[int]]:
    """Smallest first: the lowest tiers, then the newest, then those whose turn comes last."""
    victims = list(chosen)
    return (
        sorted((v.tier for v in victims), reverse=True),
        sorted(-v.begun for v in victims),
        sorted(-v.owner.turn.position for v in victims),
    )


def part(lack: Resources, request: Resources) -> float:
    """How much of what is lacking one replica brings, of its best resource."""
    brought = amounts(request)
    return max((brought.get(name, 0) / amount for name, amount in amounts(lack).items() if amount > 0), default=0.0)


def without_unneeded(victims: Sequence[Victim], fits: Callable[[Sequence[Victim]], bool]) -> list[Victim]:
    """Every one that can be spared is, from the last on. After one pass each that stays is needed: what did not fit
    without it then does not fit without it and without others."""
    chosen = list(victims)
    for victim in reversed(victims):
        rest = [other for other in chosen if other is not victim]
        if fits(rest):
            chosen = rest
    return chosen
