"""Checks of one node's room, by requests, as the stock scheduler judges it."""

from __future__ import annotations

from edgeward.fleet.model import Resources
from edgeward.placement.ask import Ask
from edgeward.placement.ledger import NodeState


def cpu_text(millicores: int) -> str:
    return f"{millicores // 1000}" if millicores % 1000 == 0 else f"{millicores}m"


def memory_text(amount: int) -> str:
    """In the largest binary unit that keeps it exact to one decimal, as a person would say it."""
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if amount >= size:
            return f"{amount / size:.1f}".rstrip("0").rstrip(".") + unit
    return str(amount)


def shares_of(need: Resources, has: Resources) -> list[float]:
    """How much of what there is each need would take; infinite of what there is none of."""
    pairs = [
        (need.cpu, has.cpu),
        (need.memory, has.memory),
        (need.pods, has.pods),
        (need.storage, has.storage),
        *((amount, has.count(name)) for name, amount in need.extended),
    ]
    return [wanted / there if there > 0 else float("inf") for wanted, there in pairs if wanted > 0]


def lacking_text(need: Resources, has: Resources) -> str:
    """What is missing for this need, each with its amount."""
    parts = [
        (need.cpu - has.cpu, f"{cpu_text(need.cpu - has.cpu)} cpu"),
        (need.memory - has.memory, f"{memory_text(need.memory - has.memory)} memory"),
        (need.pods - has.pods, f"{need.pods - has.pods} pods"),
        (need.storage - has.storage, f"{memory_text(need.storage - has.storage)} ephemeral-storage"),
        *((amount - has.count(name), f"{amount - has.count(name)} {name}") for name, amount in need.extended),
    ]
    return " and ".join(text for lack, text in parts if lack > 0)


def own_room(ask: Ask, state: NodeState) -> bool:
    """Whether one more replica takes the room of one of the same job that is leaving."""
    return bool(state.held) and state.has_room_held(ask.index)


def cpu(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.cpu - (state.node.allocatable.cpu - state.requested.cpu)
    return None if lack <= 0 or own_room(ask, state) else float(lack)


def cpu_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {cpu_text(ask.request.cpu - state.free.cpu)} cpu"


def memory(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.memory - (state.node.allocatable.memory - state.requested.memory)
    return None if lack <= 0 or own_room(ask, state) else float(lack)


def memory_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {memory_text(ask.request.memory - state.free.memory)} memory"


def pods(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.pods - (state.node.allocatable.pods - state.requested.pods)
    return None if lack <= 0 or own_room(ask, state) else float(lack)


def pods_miss(ask: Ask, state: NodeState) -> str:
    lack = ask.request.pods - state.free.pods
    return f"{state.node.name} has room for {lack} pod{'s' if lack > 1 else ''} too few"


def storage(ask: Ask, state: NodeState) -> float | None:
    if not ask.request.storage:
        return None
    lack = ask.request.storage - state.free.storage
    return None if lack <= 0 or own_room(ask, state) else float(lack)


def storage_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {memory_text(ask.request.storage - state.free.storage)} ephemeral-storage"


def extended(ask: Ask, state: NodeState) -> float | None:
    """The share of what is asked for that is not there, of the resource that lacks most."""
    if not ask.request.extended or own_room(ask, state):
        return None
    free = state.free
    lack = max((amount - free.count(name)) / amount for name, amount in ask.request.extended)
    return lack if lack > 0 else None


def extended_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {lacking_text(Resources(extended=ask.request.extended), state.free)}"


def peak(ask: Ask, state: NodeState) -> float | None:
    """All replicas of the job that are on the node may need their most at the same time, as they share its traffic."""
    peak = ask.job.memory_peak
    if peak is None or peak <= ask.request.memory:
        return None
    held = state.held.get(ask.index)
    more = peak - ask.request.memory
    lack = more * (held.room if held else 0) - state.free.memory
    lack += more if held and held.decided < held.room else peak
    return float(lack) if lack > 0 else None


def peak_miss(ask: Ask, state: NodeState) -> str:
    lack = int(peak(ask, state) or 0)
    most = memory_text(ask.job.memory_peak or 0)
    return f"{state.node.name} lacks {memory_text(lack)} memory for a peak of {most} a replica"
