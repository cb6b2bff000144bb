"""Which sites a wave takes, and how many of them may change at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from edgeward.rollout.model import Member, Strategy, Wave


def order(members: Iterable[Member], target: str) -> list[Member]:
    """Another order for every version, the same one wherever it is made: not always the same shop is the first."""
    return sorted(members, key=lambda one: hashlib.sha256(f"{target}/{one.name}".encode()).digest())


def chosen(wave: Wave, members: Sequence[Member], target: str) -> tuple[str, ...]:
    """The wave's sites: among those that are connected and have not been told the target."""
    connected = [one for one in members if one.connected]
    free = [one for one in order(connected, target) if one.told != target and matches(wave, one)]
    if wave.count is not None:
        free = free[: wave.count]
    elif wave.percent is not None:
        taken = sum(1 for one in connected if one.told == target)
        free = free[: max(0, -(-len(connected) * wave.percent // 100) - taken)]
    return tuple(one.name for one in free)


def matches(wave: Wave, member: Member) -> bool:
    if wave.names is not None:
        return member.name in wave.names
    return wave.selects is None or wave.selects(member.labels)


def may_be_empty(wave: Wave, members: Sequence[Member], target: str) -> bool:
    """Whether a wave without a site is over: the waves before have taken its sites. Else it waits for one of those that
    are away, for a wave without a successful site never passes."""
    return wave.percent is not None or not any(
        one.told != target and not one.connected and matches(wave, one) for one in members
    )


def most_unavailable(strategy: Strategy, total: int) -> int | None:
    """None: no limit. Never below one, or nothing could ever change."""
    if strategy.max_unavailable is not None:
        return max(1, strategy.max_unavailable)
    if strategy.max_unavailable_percent is not None:
        return max(1, -(-total * strategy.max_unavailable_percent // 100))
    return None


def room(strategy: Strategy, wave: Wave | None, members: Sequence[Member], target: str) -> tuple[int, int]:
    """How many more sites may begin to change now, and how many of those may be ones that serve: each may turn out to
    serve no more. One that is on its way counts, for it downloads and may fail."""
    changing = [one for one in members if on_its_way(one, target)]
    downloads = sum(1 for one in changing if not one.staged)
    limits = [(strategy.concurrent, downloads), (wave.max_concurrent if wave is not None else None, len(changing))]
    free = min((limit - taken for limit, taken in limits if limit is not None), default=len(members))
    most = most_unavailable(strategy, len(members))
    if most is None:
        return max(0, free), len(members)
    at_risk = sum(1 for one in members if on_its_way(one, target) or unavailable(one))
    return max(0, free), max(0, most - at_risk)


def unavailable(member: Member) -> bool:
    return member.connected and not member.available


def on_its_way(member: Member, target: str) -> bool:
    return member.told == target and member.serves != target and not member.refused
