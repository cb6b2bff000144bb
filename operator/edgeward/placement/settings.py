"""What can be tuned, with the defaults of the design."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each term counts, relative to the others; a score divides by their sum."""

    headroom: float = 1.0
    """what stays free of the node's cpu and memory by requests"""
    load: float = 3.0
    """1 - l by the live figures"""
    completion: float = 2.0
    """predicted seconds of one request, transfer and backlog included"""
    transfer: float = 0.5
    """predicted seconds of a request and its answer on the way"""
    latency: float = 0.25
    """round trip to where the data comes from"""
    gravity: float = 0.25
    """nearness to where the data comes from: its site, its region"""
    cost: float = 1.0
    """price of its cores and of the data that leaves a site for it"""
    energy: float = 0.5
    """watts of a busy core"""
    failure: float = 1.0
    """replicas did not fail to come up there of late"""
    model: float = 0.5
    """the model is in the node's store already; it is fetched only once, so this must not hold a replica on a full node"""
    spread: float = 2.0
    """few replicas of the same job on the node and at the site"""
    stay: float = 0.5
    """the replica is there already"""


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """Of jobs that are sized by their arrivals. Durations in seconds."""

    utilization: float = 0.7
    """share of its time that a replica is meant to work"""
    tolerance: float = 0.1
    """a demand within this part of what is there changes nothing"""
    window: float = 300.0
    """fewer must suffice for so long before there are fewer"""
    stale_after: float = 60.0
    """older figures are not used"""


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """What is taken from what the runtimes measured. Durations in seconds, sizes in requests."""

    enabled: bool = True
    prior: float = 30.0
    """requests as predicted that are counted in, so that few measurements change little"""
    few: float = 10.0
    """fewer change nothing"""
    enough: float = 300.0
    """more make a figure no surer"""
    bound: float = 4.0
    """no prediction is corrected by more than this factor, up or down"""
    band: float = 0.1
    """a figure that differs by less from what was told is noise"""
    holds: float = 3600.0
    """what was learned counts in full for so long after it was last measured"""
    half_life: float = 3600.0
    """then half as much after each of these"""
    forgotten: float = 0.125
    """and what is left of it below this is dropped"""
    coverage: float = 3300.0
    """use that is measured for less time proposes no other requests"""
    differs: float = 0.2
    """a proposal that differs by less from what is requested, or from the one before, is none"""
    headroom_cpu: float = 1.15
    headroom_memory: float = 1.3
    """what a proposal is above the 95th percentile of the use; too little memory ends a process"""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Frozen: a plan that is replayed needs the settings it was made with. Durations in seconds."""

    weights: Weights = Weights()
    scaling: ScalingSettings = ScalingSettings()
    learning: LearningSettings = LearningSettings()
    fresh_scrapes: float = 2.0
    """a sample is believed in full up to this many scrape intervals of age"""
    expiry: float = 180.0
    """and not at all from this age on; linear in between"""
    doubted_below: float = 0.75
    """a sample whose confidence is below this is told as missing; above, a late scrape makes no noise"""
    absurd_factor: float = 4.0
    """a sample beyond this multiple of what the node has is garbage, not load"""
    doubt: float = 0.5
    """part of the load term that a node without any believed figure forgoes: missing is never idle"""
    gain: float = 0.15
    """a healthy replica moves only for more than this much score"""
    evaluations: int = 3
    """seen in so many evaluations in a row"""
    evaluation_interval: float = 15.0
    """that lie at least this far apart"""
    dwell: float = 600.0
    """after it has been where it is for so long"""
    moves_per_job: int = 2
    """moves of one job per move_window"""
    moves_per_site: int = 10
    """moves that touch one site per move_window"""
    move_window: float = 3600.0
    lift_after: float = 600.0
    """a job whose replicas have had no place for so long is served one priority tier higher"""
    preemption: bool = True
    """what finds no place may take that of a lower priority tier"""
    min_run_time: float = 300.0
    """a replica that was decided for, or whose pod started, less than this ago is not taken"""
    nomination_ttl: float = 120.0
    """room that is made free for a job is kept for it this long"""
    gone_after: float = 600.0
    """a node that is no longer in the Fleet loses what it held after this long"""
    exclusion_memory: float = 3600.0
    """how long an expired exclusion is remembered, so that the next refusal of the same node doubles the back-off"""
    guidance_expiry: float = 60.0
    """the solver's advice is followed for so long after the Fleet that it looked at"""
    worth_solving: int = 8
    """replicas that want a place from which on a solve is worth its time"""
    runners_up: int = 3
    rejected: int = 10
    notes: int = 10
