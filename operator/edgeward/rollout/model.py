"""The rollout of one release as plain data: what is wanted, what is so, what was decided before.

A version is named here by its identity (digest, parameters and variants as one string); nothing else about it matters
to a rollout. Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    ROLLING = "Rolling"
    """members of the wave are being told, and change"""
    BAKING = "Baking"
    """they have changed, and are watched"""
    DONE = "Done"
    """every site that is there serves the target; those that come back go straight to it"""
    ROLLED_BACK = "RolledBack"
    """the target is refused; sites are told the version before"""


class Hold(StrEnum):
    """Why nothing moves although something is left to do. Empty: nothing holds it."""

    NONE = ""
    COMMAND = "Command"
    GATE_FAILED = "GateFailed"
    """a gate failed and nobody may go back without asking (rollback.automatic: false)"""


class Outcome(StrEnum):
    WAITING = "Waiting"
    PASSED = "Passed"
    FAILED = "Failed"
    NO_DATA = "NoData"
    ERROR = "Error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Exactly one of count, percent, selects and names, or none of them: all sites that remain."""

    name: str
    count: int | None = None
    percent: int | None = None
    """of the connected sites, together with the waves before, rounded up"""
    selects: Callable[[Mapping[str, str]], bool] | None = None
    names: frozenset[str] | None = None
    traffic: int | None = None
    """per cent of the requests that the new version answers until the bake is over; None: all"""
    mirror: int = 0
    bake: float = 0.0
    max_concurrent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    name: str
    builtin: str = ""
    """ErrorRate and so on; empty: `query` is asked"""
    query: str = ""
    """PromQL with placeholders"""
    at_hub: bool = False
    """whether the hub's Prometheus is asked, and not each site's"""
    max: float | None = None
    min: float | None = None
    baseline: bool = False
    """the bounds are ratios to the old version's value"""
    initial_delay: float = 0.0
    interval: float = 30.0
    count: int = 1
    """looks with a verdict that are needed at least; 0: until the bake ends"""
    min_samples: int = 0
    passes_needed: int = 1
    """in a row"""
    failure_limit: int = 0
    """failed looks that are tolerated"""
    no_data_fails: bool = False
    """a look without data is a failed one, and so is the fifth in a row that cannot be made; else both wait"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    waves: tuple[Wave, ...] = ()
    """none: everywhere at once"""
    gates: tuple[Gate, ...] = ()
    max_unavailable: int | None = None
    max_unavailable_percent: int | None = None
    concurrent: int | None = None
    """downloads at the same time"""
    deadline: float | None = None
    automatic_rollback: bool = True
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site that should serve the release's model."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    connected: bool = True
    told: str | None = None
    """version it was told last, be it beside another one"""
    base: str | None = None
    """version that it was told to trust; another than `told` while that is its canary"""
    serves: str | None = None
    """version that answers there; None: none, or several"""
    refused: str = ""
    """why it refuses the target by its own checks in the attempt in force; empty: it does not"""
    available: bool = True
    """it has a ready replica, and no larger share of its answers are errors than a gate lets pass; a swap in place changes
    nothing about it"""
    staged: bool = False
    """the target is on its disks, and waits for its moment"""
    begins: float | None = None
    """when it may begin to serve the target: the moment at which its window opened or opens next, inf for never; None:
    at any time"""
    shut: bool = False
    """it must not even be told the target now, since being told is to change"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a gate's question came to, over the sites of the wave that take one variant."""

    at: float
    """the oldest of the times that its parts were measured at; 0 while a part is missing"""
    value: float | None = None
    """None: no data"""
    baseline: float | None = None
    """of the version before over the same time"""
    least: float = 0.0
    """a baseline below it cannot be told from it, so it counts as this"""
    samples: int = 0
    error: str = ""
    late: str = ""
    """who is waited for while the sample is too old, for a person"""
    query: str = ""
    """that was asked, resolved"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look."""

    at: float
    outcome: Outcome
    value: float | None = None
    baseline: float | None = None
    bound: str = ""
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a gate stands for one variant: its last look, and what counts towards its verdict."""

    gate: str
    variant: str = ""
    """digest; empty: the main artifact"""
    outcome: Outcome = Outcome.WAITING
    at: float = 0.0
    looks: int = 0
    """that said Passed or Failed, in this wave"""
    passes: int = 0
    """in a row"""
    failures: int = 0
    value: float | None = None
    baseline: float | None = None
    """last value of the version before in this rollout"""
    bound: str = ""
    """what it was held against, for a person"""
    samples: int = 0
    message: str = ""
    query: str = ""
    checks: tuple[Check, ...] = ()
    """the last five, the newest first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the hub's Prometheus is to be asked."""

    query: str
    since: float
    """begin of the range"""
    due: float
    """an answer of this moment or later is needed"""
    interval: float

    @property
    def key(self) -> str:
        return f"{self.since:.0f} {self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A version that is not tried again until somebody says retry."""

    version: str
    reason: str
    at: float
    attempt: int = 0
    """in which it was refused"""
    name: str = ""
    """how a person calls it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """All that a rollout remembers. Kept in the release's status, so that whoever leads goes on from it."""

    target: str = ""
    phase: Phase = Phase.ROLLING
    wave: int = 0
    members: tuple[str, ...] = ()
    """of this wave, as it began"""
    started: float = 0.0
    baking_since: float | None = None
    hold: Hold = Hold.NONE
    looks: tuple[Look, ...] = ()
    token: str = ""
    """of the last command that was acted on"""
    attempt: int = 0
    """how often somebody said retry of this target"""
    why: str = ""
    """of RolledBack, or of a hold"""

    @property
    def begun(self) -> bool:
        """Whether a site may have been told the target, and what was begun is not over."""
        underway = self.phase in (Phase.ROLLING, Phase.BAKING)
        return underway and (self.phase is Phase.BAKING or self.wave > 0 or bool(self.members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    verb: str
    """pause | promote | abort | retry"""
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one step of a rollout is decided on."""

    now: float
    target: str
    stable: str | None
    """the last version that finished; None before the first"""
    strategy: Strategy = field(default_factory=Strategy)
    members: tuple[Member, ...] = ()
    progress: Progress | None = None
    """None: nothing is remembered of this release"""
    refused: tuple[Refused, ...] = ()
    attempt: int = 0
    """of the target, as sites were told it: what a hub without a memory goes on with"""
    known_attempt: int = 0
    """the highest of the target that anybody remembers; a retry goes beyond it"""
    samples: Mapping[tuple[str, str], Sample] = field(default_factory=dict)
    """by gate and variant"""
    variants: tuple[str, ...] = ("",)
    """that the wave's sites take: each is judged on its own, and all must pass"""
    command: Command | None = None
    comes_after: str = ""
    """another rollout of the same sites that has begun, for a person: this one does not begin before it is over"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    version: str | None
    """None: nothing that could be told is known"""
    beside: str | None = None
    """the new version as a canary beside `version`, with its share of the requests"""
    traffic: int = 0
    mirror: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    progress: Progress
    told: Mapping[str, Told]
    stable: str | None
    refused: tuple[Refused, ...]
    waits_for: str = ""
    """one sentence: what the next move hangs on; empty when nothing is waited for"""
    turns: tuple[str, ...] = ()
    """what happened in this step, for Events"""
    no_data: bool = False
    """a gate waits for data: its last look had none, or could not be made"""
