"""What a plan says. Every figure that decided is in it, so that a status can answer "why here, why not there"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from edgeward.fleet.model import Exclusion, Lesson, Moves, Nomination, ProposedMove, Resources
from edgeward.placement.scaling import Sizing


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas of one job on one node."""

    node: str
    site: str
    tier: str
    replicas: int
    score: float
    """0..1, of one replica there as of this plan"""
    since: float
    """when this node was decided for, Unix seconds"""
    lost: bool = False
    """its node has been away longer than the job's lostAfter; it is listed but not counted, until it is back or gone"""
    moved_from: str = ""
    """the site that a replica left for this node at `since` because that gained; empty when it came otherwise"""


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of a score: weight (of all weights summing to 1) times value 0..1."""

    name: str
    weight: float
    value: float
    confidence: float
    """1 when it rests on known or fresh figures, 0 when on none"""


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers behind the terms for one node, all "as if the replica were there". None was not known."""

    cores: float
    """C: allocatable cores"""
    free_cores: float
    """R: free of them, live blended with requests by confidence, less what is in flight"""
    requested: Resources
    """sum of the requests on the node"""
    allocatable: Resources
    live_cores: float | None
    live_age: float | None
    """seconds since that sample was measured"""
    confidence: float
    in_flight_cores: float
    """requests of replicas that the live figure cannot show yet"""
    load: float
    """l = 1 - R/C"""
    capability_share: float
    """K/max K over the nodes that were compared, K = C R/T"""
    transfer_seconds: float | None
    """T_d"""
    completion_seconds: float | None
    """max(backlog, T_d) + T"""


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A node that fits and was not chosen."""

    node: str
    site: str
    score: float
    terms: tuple[Term, ...]
    why: str
    """the term that cost it most, or why a higher score does not move a replica"""
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """How many nodes one constraint kept out, and the one that missed it by least."""

    reason: str
    count: int
    nearest_miss: str


@dataclass(frozen=True, slots=True)
class Explanation:
    node: str = ""
    """the best of the nodes that hold a replica; terms and figures are its; empty when there is none"""
    terms: tuple[Term, ...] = ()
    figures: Figures | None = None
    runners_up: tuple[RunnerUp, ...] = ()
    """at most 3, best first"""
    rejected: tuple[Rejected, ...] = ()
    """at most 10 reasons, the most frequent first"""
    data_age: float | None = None
    """seconds, of the cpu sample of that node; None when there is none that is believed"""
    notes: tuple[str, ...] = ()
    """what was not believed and why, and what else a reader should know"""
    share_of_bound: float | None = None
    """of the job's priority tier, as the solver found it, 0..1; None when its place was found without the solver"""
    order: str = ""
    """"priority tier 4, P 0.8000, 2nd of 5\""""


@dataclass(frozen=True, slots=True)
class Move:
    """One healthy replica that changes its node because that gains."""

    source: str
    target: str
    gain: float


@dataclass(frozen=True, slots=True)
class GivesWay:
    """A node that replicas of a job leave for a job of a higher priority tier, from the nomination until that one is
    there. Whoever publishes lets them go even where nothing replaces them."""

    site: str
    node: str
    winner: str
    """namespace/name"""
    why: str
    """for people: who needed what, where"""
    taken: int = 0
    """replicas that this very plan took; 0 when an earlier one did"""
    patient: bool = True
    """whether there is still time to wait for what replaces them elsewhere"""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Where the replicas of one job are to be.

    A node that the Fleet has for this job and that `placements` no longer names is to be left: whoever publishes keeps
    it until the replicas that replace it are Ready, and shows it in the next Fleet with `Placed.replicas` = 0.
    """

    key: str
    """namespace/name"""
    priority_tier: int
    p: Fraction
    wanted: int
    placements: tuple[Placement, ...] = ()
    missing: int = 0
    """replicas that have no node now; lost ones that could not be replaced are among them"""
    reason: str = ""
    """empty, or why replicas are missing or (missing = 0) had to stay where the job does not allow them any more"""
    message: str = ""
    explanation: Explanation = Explanation()
    exclusions: tuple[Exclusion, ...] = ()
    """to remember; in force while `until` lies ahead, kept a while longer so that the back-off can go on doubling"""
    proposed: ProposedMove | None = None
    moves: Moves = field(default_factory=Moves)
    moved: tuple[Move, ...] = ()
    nomination: Nomination | None = None
    """the room that is being made free for this job"""
    gives_way: tuple[GivesWay, ...] = ()
    learned: Lesson = field(default_factory=Lesson)
    """what status is to tell of the runtimes' measurements; it changes only by more than noise"""
    sizing: Sizing | None = None
    """how many replicas from the next plan on, for a job that is sized by its arrivals"""

    @property
    def decision(self) -> tuple[object, ...]:
        """What a status must follow. Scores, ages and explanations drift with every sample and are not part of it:
        comparing this is how an idle fleet makes no write."""
        return (
            tuple((p.node, p.site, p.replicas, p.since, p.lost) for p in self.placements),
            self.wanted,
            self.missing,
            self.reason,
            self.exclusions,
            self.proposed,
            self.moves,
            self.nomination,
            self.sizing.decision if self.sizing else None,
            self.learned,
        )


@dataclass(frozen=True, slots=True)
class TierShare:
    """How near one priority tier's new replicas come to the best that anybody could do with what was free for them."""

    tier: int
    replicas: int
    """that wanted a place"""
    placed: int
    score: float
    """sum of the scores of those placed, as they are when the whole tier is there"""
    bound: float | None = None
    """no placement of this tier, on what the tiers above left, has a larger sum; 0 when nothing can be placed, None
    while it is not known: it is computed after the advice was given"""

    @property
    def share(self) -> float | None:
        if self.bound is None:
            return None
        return min(1.0, self.score / self.bound) if self.bound > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the solver advises for the replicas of one Fleet that want a place. A plan is a function of the Fleet, the
    settings and this, so a replay that is given the same guidance takes the same way, whatever the clock did."""

    made_at: float
    """Fleet.now of the Fleet that was solved"""
    targets: Mapping[str, tuple[tuple[str, str, int], ...]] = field(default_factory=dict)
    """(site, node, replicas) for new replicas, by job"""
    tiers: tuple[TierShare, ...] = ()
    """highest first, those in which a replica wanted a place"""
    backstop: bool = False
    """whether the wall clock ended the solve before its counts did"""
    problem: str = ""
    """why there is no newer advice though there should be; becomes a note of the plan"""

    @property
    def share_of_bound(self) -> float | None:
        """Of all tiers together; None when nothing wanted a place, or the bounds are not known yet."""
        if any(tier.bound is None for tier in self.tiers):
            return None
        bound = sum(tier.bound or 0.0 for tier in self.tiers)
        return min(1.0, sum(tier.score for tier in self.tiers) / bound) if bound > 0 else None


@dataclass(frozen=True, slots=True)
class Plan:
    jobs: tuple[JobPlan, ...] = ()
    """in the order in which they were served: priority tier, P, ties"""
    notes: tuple[str, ...] = ()
    """about the whole: metrics that are missing or old"""
    fresh_nodes: int = 0
    """nodes whose cpu sample is believed in full"""
    doubts: tuple[tuple[str, int], ...] = ()
    """why, in words without figures, and for how many of the doubted nodes; the most frequent first"""
    doubted_nodes: int = 0
    """nodes whose cpu sample is so old, or so absent, that a user should know: one late scrape is not yet that"""
    known_nodes: int = 0
    """nodes with any confidence at all"""
    total_nodes: int = 0
    guidance: Guidance | None = None
    """the advice that this plan followed, with its distance from the bound; None when it had none"""
    _by_key: Mapping[str, JobPlan] = field(default_factory=dict, compare=False, repr=False)

    def job(self, key: str) -> JobPlan | None:
        """The plan of the job namespace/name; None when the Fleet had no such job."""
        return self._by_key.get(key)
