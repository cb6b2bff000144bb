"""Which replicas would have to give way for one more to fit: candidates, sums over them, and the choice among sets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from edgeward.fleet.model import Resources
from edgeward.placement.decide import Decision
from edgeward.placement.incumbents import Standing
from edgeward.placement.ledger import NodeState

TRIED_SETS = 400
"""sets of one size that are tried at a place, beyond which the choice is greedy"""


@dataclass(slots=True)
class Victim:
    """One replica that might give way."""

    owner: Decision
    standing: Standing
    state: NodeState
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


def fresh_and_solid(victims: Sequence[Victim]) -> tuple[list[Victim], list[Victim]]:
    """Those that only this very plan placed, whom it costs nothing to take back; and those that are there."""
    return [v for v in victims if v.standing.new], [v for v in victims if not v.standing.new]


def choose(
    victims: Sequence[Victim],
    *,
    lack: Resources,
    brings: Callable[[Victim], Resources],
    fits: Callable[[Sequence[Victim]], bool],
) -> list[Victim] | None:
    """The victims after which one more replica fits, none when what is leaving suffices; None when none suffice.

    What this plan placed comes first, as it serves nobody yet. Of what serves the fewest, of these the lowest tiers, of
    these the newest. `fits` never says no to more victims than to fewer.
    """
    if fits(()):
        return []
    if not victims or not fits(victims):
        return None
    fresh, solid = fresh_and_solid(victims)
    if fits(fresh):
        return without_unneeded(fresh, fits)
    for victim in fresh:
        lack -= brings(victim)
    useful = [victim for victim in solid if part(lack, brings(victim)) > 0]
    if not useful or not fits([*fresh, *useful]):
        useful = solid
    brought = {id(victim): brings(victim) for victim in useful}
    least = max(1, least_of(lack, list(brought.values())) or 1)
    for size in (least, least + 1):
        tried = islice(combinations(useful, size), TRIED_SETS)
        enough = [s for s in tried if covered(lack, [brought[id(v)] for v in s]) and fits([*fresh, *s])]
        if enough:
            return without_unneeded([*fresh, *min(enough, key=worth)], fits)
    by_weight = sorted(enumerate(useful), key=lambda entry: (-part(lack, brought[id(entry[1])]), entry[0]))
    ordered = [victim for _, victim in by_weight]
    enough_of_them = bisect_left(range(len(ordered)), True, key=lambda number: fits([*fresh, *ordered[:number]]))
    return without_unneeded([*fresh, *ordered[:enough_of_them]], fits)
