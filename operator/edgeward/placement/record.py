"""A planner pass as a file: the Fleet that it saw, the settings that it ran with, and what came out, so that anybody can
run it again and get the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from edgeward import __version__
from edgeward.fleet import snapshot
from edgeward.fleet.model import Fleet
from edgeward.fleet.snapshot import SnapshotError
from edgeward.placement.model import Guidance, Plan
from edgeward.placement.plan import plan
from edgeward.placement.settings import PlanSettings

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    format: int
    edgeward: str
    """version that wrote it"""
    live: bool
    """whether live figures are in it; without them it was put together from lists of objects"""
    settings: PlanSettings
    plan: str
    """"sha256:..." of the plan's canonical JSON; empty when nobody planned yet"""
    guidance: Guidance | None
    """the solver's advice that the plan followed: with it a replay takes the same way, whatever the clock did then"""
    fleet: Fleet

    def replay(self) -> Plan:
        return plan(self.fleet, self.settings, guidance=self.guidance)


def record(fleet: Fleet, settings: PlanSettings, *, made: Plan | None, live: bool = True) -> Record:
    """`made`: what was planned for it."""
    return Record(
        format=FORMAT,
        edgeward=__version__,
        live=live,
        settings=settings,
        plan=digest(plan_text(made)) if made is not None else "",
        guidance=made.guidance if made is not None else None,
        fleet=fleet,
    )


def record_text(made: Record) -> str:
    return snapshot.text(made) + "\n"


def read(text: str) -> Record:
    """Raises SnapshotError, which says what is wrong with it."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SnapshotError(f"not JSON: {error}") from error
    if not isinstance(data, dict) or "format" not in data or "fleet" not in data:
        raise SnapshotError("no snapshot of Edgeward: the fields format and fleet are missing")
    if data["format"] != FORMAT:
        told = f"written by edgeward {data.get('edgeward', '(unknown)')}"
        raise SnapshotError(
            f"format {data['format']!r}, {told}; this is edgeward {__version__}, which reads format {FORMAT}"
        )
    return snapshot.decode(Record, data, "snapshot")


def plan_text(made: Plan) -> str:
    """The plan as one line of canonical JSON."""
    return snapshot.text(made) + "\n"


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
