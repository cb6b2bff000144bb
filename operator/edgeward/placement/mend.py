"""Replicas that came to stand at fewer sites than spread.minSites asks for, because there were no others then or fewer
were asked for: one goes to another site once a node there fits."""

from __future__ import annotations

from edgeward.placement.decide import Decision, at_rest, place_elsewhere
from edgeward.placement.incumbents import Crowd, sites_short, standing_score
from edgeward.placement.ledger import Ledger


def mend(decision: Decision, ledger: Ledger) -> None:
    """One replica at a time, only of a job of which nothing else changes, and only to a site that it does not use: that
    is what the check of the spread allows, so nothing ever comes back. The old one serves until the new one is Ready,
    as whenever a place is left."""
    crowd = Crowd(decision.standings)
    if not decision.calm or sites_short(decision.turn.job, crowd) <= 0 or not at_rest(decision):
        return
    spare = [
        standing
        for standing in decision.standings
        if standing.state is not None
        and standing.state.site.connected
        and not standing.frozen
        and crowd.at_site[standing.site] > 1
    ]
    if not spare or not decision.turn.job.model_digest:
        return
    scorer, most = decision.scorer, max(crowd.at_site[standing.site] for standing in spare)
    source = min(
        (standing for standing in spare if crowd.at_site[standing.site] == most),
        key=lambda s: (standing_score(scorer, crowd, s), -s.since, s.state.rank if s.state else 0),
    )
    assert source.state is not None
    ledger.withdraw(decision.ask.index, source.state)
    source.count -= 1
    if not place_elsewhere(decision, 1, ledger, site=None):
        source.count += 1
        ledger.withdraw(decision.ask.index, source.state, -1)
        return
    source.ready = min(source.ready, source.count)
    decision.standings = [standing for standing in decision.standings if standing.count > 0]
    new = decision.standings[-1]
    decision.notes.append(f"1 replica goes from {source.node} to {new.node}, as spread.minSites asks for another site")
