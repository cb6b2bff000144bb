"""Jobs whose spec.replicas counts at each site that they may use (replicaScope PerSite), as a DaemonSet's pod does at
each node: a site that comes gets its own, a site that goes takes only its own along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from edgeward.api.reasons import Rejection, most_severe
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import SPEC_CHECKS, Miss
from edgeward.placement.explain import sift, why_missing
from edgeward.placement.incumbents import Standing
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.sieve import StaticMisses

SITES_TOLD = 5
"""sites whose lack is told one by one"""
_SPEC = frozenset(check.reason for check in SPEC_CHECKS)


def due_by_site(
    replicas: int, standings: Iterable[Standing], states: Iterable[NodeState], static: Mapping[int, Miss]
) -> dict[str, int]:
    """How many replicas each site should have. `standings`: what may stay. `static`: as `sift` has it.

    A site with a node that the job may use has `replicas` of them due. One that takes nothing new now (not connected,
    unschedulable, frozen), or whose nodes the job may use no more but need not leave, is due what it has, `replicas` at
    most; a frozen one loses none of that either.
    """
    open_sites = {
        state.site.name
        for state in states
        if state.site.connected
        and not state.site.unschedulable
        and not state.site.frozen
        and ((miss := static.get(state.index)) is None or miss.check.reason not in _SPEC)
    }
    held: Counter[str] = Counter()
    frozen = set()
    for standing in standings:
        held[standing.site] += standing.count
        if standing.frozen:
            frozen.add(standing.site)
    due = {}
    for site in sorted(open_sites | held.keys()):
        if site in open_sites:
            due[site] = replicas
        else:
            due[site] = held[site] if site in frozen else min(held[site], replicas)
    return due


def missing_by_site(ask: Ask, ledger: Ledger, static: StaticMisses, short: Mapping[str, int]) -> tuple[str, str]:
    """The reason and the message for so many replicas that are missing by site, each site with its own nodes' misses."""
    reasons, texts = [], []
    for site in sorted(short):
        here = [state for state in ledger.states if state.site.name == site]
        _, misses = sift(ask, ledger, static, np.array([state.index for state in here], dtype=np.intp))
        reason, message = why_missing(ask, here, misses)
        reasons.append(reason)
        texts.append(f"{site} lacks {short[site]}: {message}")
    known = most_severe(Rejection(reason) for reason in reasons if reason in Rejection.__members__.values())
    more = f"; and {len(texts) - SITES_TOLD} more sites" if len(texts) > SITES_TOLD else ""
    return known.value if known else reasons[0], "; ".join(texts[:SITES_TOLD]) + more
