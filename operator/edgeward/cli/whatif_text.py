"""What `edgeward what-if` found, for people and for machines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeward.api.common import format_bytes, format_cpu
from edgeward.placement.extra import Extra, Search
from edgeward.placement.whatif import Comparison, Outcome, Row, Spots

from .table import Page, place_name

_COLOURS = {Outcome.PREEMPTED: "red", Outcome.REFUSED: "red", Outcome.PLACED: "green", Outcome.MOVED: "yellow"}
WAITING_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Answer:
    changes: tuple[str, ...]
    """what was asked, in words"""
    comparison: Comparison
    search: Search
    age: float | None
    """seconds since the fleet was looked at; None for a file"""
    caveats: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        found, search = self.comparison, self.search
        return {
            "changes": list(self.changes),
            "jobs": [_row(row) for row in found.rows],
            "stillWaiting": [_row(row) for row in found.waiting],
            "unchanged": found.unchanged,
            "settled": found.settled,
            "extraCapacity": {
                "waitingReplicas": search.waiting,
                "ways": [_extra(way) for way in search.ways],
                "notPlacedByAnyNumber": search.left,
                "plans": search.plans,
                "endedEarly": search.ended,
            },
            "caveats": list(self.caveats),
        }


def lines_of(answer: Answer, page: Page) -> list[str]:
    found = answer.comparison
    lines = [page.title("What if")]
    for change in answer.changes or ("nothing changes",):
        lines += page.wrap(change)
    if found.rows:
        lines += ["", page.title("Then"), *_rows(found.rows, page)]
    else:
        lines += ["", "Then nothing is placed otherwise."]
    if found.unchanged:
        lines += page.wrap(
            f"{_many(found.unchanged, 'other job')} {'stay' if found.unchanged > 1 else 'stays'} as planned"
        )
    if found.waiting:
        lines += ["", page.title("Waits with it and without it"), *_waiting(found.waiting, page)]
    lines += _capacity(answer.search, page)
    notes = list(answer.caveats)
    if not found.settled:
        notes.append(f"after {found.passes} planner passes there was still more to come; later moves are not shown")
    if notes:
        lines += ["", page.title("Worth knowing")]
        for note in notes:
            lines += page.wrap(f"- {note}")
    return lines


def _rows(rows: Sequence[Row], page: Page) -> list[str]:
    cells = [(row.outcome.value, row.job, str(row.tier), _way(row), _why(row)) for row in rows]
    lines = page.table(("WHAT", "JOB", "TIER", "FROM -> TO", "WHY"), cells)
    if not page.colour:
        return lines
    words = {outcome.value: colour for outcome, colour in _COLOURS.items()}
    painted = []
    for line in lines:
        word = line[2:].split(" ", 1)[0] if line.startswith("  ") and not line.startswith("   ") else ""
        painted.append(f"  {page.paint(word, words[word])}{line[2 + len(word) :]}" if word in words else line)
    return painted


def _way(row: Row) -> str:
    """Only what differs: nodes that keep their replicas are not news."""
    left = {node: count - row.after.get(node, 0) for node, count in row.before.items()}
    come = {node: count - row.before.get(node, 0) for node, count in row.after.items()}
    from_ = _spots({node: count for node, count in left.items() if count > 0})
    to = _spots({node: count for node, count in come.items() if count > 0})
    return f"{from_ or '-'} -> {to or '-'}"


def _why(row: Row) -> str:
    parts = []
    if row.by:
        parts.append(f"gives way to {', '.join(row.by)}")
    if row.missing:
        more = f" ({row.missed} without the change)" if row.missed and row.missed != row.missing else ""
        parts.append(f"{_many(row.missing, 'replica')} without a place{more}: {row.reason}, {row.why}")
    elif row.missed:
        parts.append(f"{_many(row.missed, 'replica')} had no place")
    elif row.why:
        parts.append(row.why)
    return "; ".join(parts)


def _waiting(rows: Sequence[Row], page: Page) -> list[str]:
    cells = [(row.job, str(row.tier), str(row.missing), f"{row.reason}: {row.why}") for row in rows[:WAITING_SHOWN]]
    lines = page.table(("JOB", "TIER", "LACKS", "WHY"), cells)
    if len(rows) > WAITING_SHOWN:
        lines.append(f"  and {len(rows) - WAITING_SHOWN} more")
    return lines


def _capacity(search: Search, page: Page) -> list[str]:
    if not search.waiting:
        return []
    lines = ["", page.title(f"To place the {_many(search.waiting, 'replica')} that {_wait(search.waiting)} for room")]
    for number, way in enumerate(search.ways):
        lines += page.wrap(f"{'or ' if number else ''}{extra_text(way)}")
    if search.left:
        what = f"{search.left} of them" if search.ways else "none of what was tried"
        text = f"{what} would still wait" if search.ways else f"{what} places all of them"
        lines += page.wrap(
            f"{text}: more nodes of the kinds that there are do not help; try another with --shape, or see the reasons above"
        )
    if search.ended:
        lines += page.wrap(f"the search ended after {search.plans} plans; there may be a smaller answer")
    return lines


def extra_text(way: Extra) -> str:
    parts = [
        f"{_many(item.count, 'node')} like {shape_text(item.shape.tier, item.shape.at, item.shape.allocatable)}"
        for item in way.additions
    ]
    return " and ".join(parts) + ("" if way.exact else " (an upper bound: not every smaller number was tried)")


def shape_text(tier: str, site: str, has: Any) -> str:
    more = "".join(f",{name}={amount}" for name, amount in has.extended)
    return f"tier={tier},site={site},cpu={format_cpu(has.cpu)},memory={format_bytes(has.memory)}{more}"


def _row(row: Row) -> dict[str, Any]:
    return {
        "job": row.job,
        "outcome": row.outcome.value,
        "priorityTier": row.tier,
        "from": dict(row.before),
        "to": dict(row.after),
        "missing": row.missing,
        "missingWithoutTheChange": row.missed,
        "reason": row.reason,
        "why": row.why,
        "givesWayTo": list(row.by),
    }


def _extra(way: Extra) -> dict[str, Any]:
    return {
        "nodes": [
            {
                "count": item.count,
                "tier": item.shape.tier,
                "site": item.shape.at,
                "arch": item.shape.arch,
                "cpu": format_cpu(item.shape.allocatable.cpu),
                "memory": format_bytes(item.shape.allocatable.memory),
                "extended": dict(item.shape.allocatable.extended),
            }
            for item in way.additions
        ],
        "places": way.replicas,
        "exact": way.exact,
    }


def _spots(spots: Spots | Mapping[str, int]) -> str:
    named = [(place_name(node), count) for node, count in sorted(spots.items())]
    names = [name if count == 1 else f"{count}x {name}" for name, count in named]
    return ", ".join(names[:4]) + (f" +{len(names) - 4}" if len(names) > 4 else "")


def _wait(count: int) -> str:
    return "waits" if count == 1 else "wait"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
