"""`edgeward what-if`: the operator's own planner on a fleet with something changed in it. Nothing is written anywhere."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable

from edgeward.fleet.model import Fleet
from edgeward.placement.change import ChangeError, without_node, without_site
from edgeward.placement.extra import MOST_PLANS, Search, least
from edgeward.placement.model import Plan
from edgeward.placement.plan import plan
from edgeward.placement.record import Record
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve import solve, worth_solving
from edgeward.placement.whatif import compare, run

from . import reach, source
from .errors import Exit
from .output import show
from .snapshot import say
from .table import page_for
from .whatif_input import add, added, as_command_error, with_files, with_weights
from .whatif_text import Answer, lines_of, shape_text

LARGE = 20_000
"""jobs times nodes"""


def what_if(arguments: argparse.Namespace) -> int:
    target = reach.Target.of(arguments)
    recorded = (
        source.from_file(arguments.snapshot) if arguments.snapshot else asyncio.run(source.from_cluster(target, say))
    )
    namespace = arguments.namespace or ("default" if arguments.snapshot else target.namespace)
    try:
        answer = answer_of(arguments, recorded, namespace=namespace)
    except ChangeError as error:
        raise as_command_error(error) from error
    if arguments.output == "table":
        sys.stdout.write("\n".join(lines_of(answer, page_for(sys.stdout))) + "\n")
    else:
        show(answer.document(), arguments.output)
    return Exit.DONE


def answer_of(
    arguments: argparse.Namespace, recorded: Record, *, namespace: str, clock: Callable[[], float] = time.time
) -> Answer:
    """namespace: of objects that name none. Raises ChangeError and CommandError."""
    fleet, words = recorded.fleet, list[str]()
    for name in arguments.without_site:
        fleet = without_site(fleet, name)
        words.append(f"site {name} is not there")
    for name in arguments.without_node:
        fleet = without_node(fleet, name)
        words.append(f"node {name} is not there")
    for text in arguments.add_node:
        one = added("--add-node", text, recorded.fleet)
        fleet = add(fleet, one)
        more = "1 more node" if one.count == 1 else f"{one.count} more nodes"
        words.append(f"{more}: {shape_text(one.shape.tier, one.shape.at, one.shape.allocatable)}")
    before = {job.key for job in fleet.jobs}
    if arguments.filename:
        present = fleet
        fleet = with_files(fleet, arguments.filename, namespace=namespace)
        words += _job_words(present, fleet, before)
    settings = with_weights(recorded.settings, arguments.set_weight)
    words += [f"weight {text}" for text in arguments.set_weight]
    shapes = [added("--shape", text, recorded.fleet).shape for text in arguments.shape]

    without = run(recorded.fleet, decider(recorded.settings), recorded.settings)
    changed = run(fleet, decider(settings), settings)
    search = Search(waiting=0)
    if not arguments.no_search:
        # Asked dozens of times over: for a large fleet without the solver, which may want a node more.
        large = len(fleet.jobs) * len(fleet.nodes) > LARGE
        quick = (lambda asked: plan(asked, settings)) if large else decider(settings)
        search = least(changed.fleet, quick, shapes=shapes, most_plans=MOST_PLANS)
    caveats = []
    if arguments.add_node or search.ways:
        caveats.append(
            "added nodes are taken to be idle, and to have what is not named as the tier's most common node has"
        )
    if search.ways and len(fleet.jobs) * len(fleet.nodes) > LARGE:
        caveats.append("in a fleet of this size the extra capacity is found without the solver: a little less may do")
    if not recorded.live:
        caveats.append("the fleet has no live figures and default settings: the operator may decide otherwise")
    age = None if arguments.snapshot else max(clock() - recorded.fleet.now, 0.0)
    return Answer(tuple(words), compare(without, changed), search, age, tuple(caveats))


def decider(settings: PlanSettings) -> Callable[[Fleet], Plan]:
    """What decides in production: the plan, with the solver's advice when enough is waiting for it."""

    def decide(fleet: Fleet) -> Plan:
        return plan(fleet, settings, guidance=solve(fleet, settings) if worth_solving(fleet, settings) else None)

    return decide


def _job_words(present: Fleet, changed: Fleet, before: set[str]) -> list[str]:
    known = {job.key: job for job in present.jobs}
    words = []
    for job in changed.jobs:
        if job.key not in before:
            words.append(f"a new job {job.key}, {job.replicas} replicas")
        elif known[job.key] is not job:
            words.append(f"another spec for job {job.key}")
    return words
