"""Status of an InferenceJob: what was decided, why, and what a decision must remember.

Lists are atomic: under server-side apply the field manager's record of a keyed list of 200 sites would double the object.
"""

from typing import Annotated, Any

from pydantic import Field

from edgeward.api.common import (
    Condition,
    Digest,
    Model,
    NonNegative,
    SiteName,
    Tier,
    Time,
    keyed,
)

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_OPAQUE: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
Figure = Annotated[str, Field(max_length=32)]
"""a decimal number that only the operator writes: no pattern, which would cost the definition 2 KB"""
PerMille = Annotated[int, Field(ge=0, le=1000)]


class PriorityStatus(Model):
    """The priority as of the last decision."""

    tier: int = Field(ge=1, le=5, description="Priority tier, 5 is the highest.")
    score: int = Field(0, ge=0, description="P, the order within the priority tier, per thousand.")


class SitesStatus(Model):
    """Sites that the job should serve at."""

    total: NonNegative = Field(0, description="Sites with a decision.")
    ready: NonNegative = Field(0, description="Sites where every decided replica serves.")
    offline: NonNegative = Field(0, description="Sites that are not connected.")


class Decision(Model):
    """What was decided for one site."""

    cluster_name: str = Field("", max_length=253, description="Cluster of the site.")
    site: SiteName = Field(description="The site.")
    tier: Tier | None = Field(None, description="Tier of the site.")
    nodes: tuple[Annotated[str, Field(max_length=253)], ...] = Field(
        (), max_length=1000, description="Nodes that carry a replica.", json_schema_extra=_ATOMIC
    )
    replicas: NonNegative = Field(0, description="Replicas decided.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")
    score: PerMille = Field(0, description="Score of the site's best node at the decision, per thousand.")
    since: Time | None = Field(None, description="When this was decided.")


class Exclusion(Model):
    """A node that is left out for a while because what was placed there did not start."""

    node: str = Field(max_length=253, description="The node.")
    site: str = Field("", max_length=63, description="Its site.")
    reason: str = Field(max_length=128, description="What the scheduler or the kubelet said, as one word.")
    message: str = Field("", max_length=1024, description="What was said, for a person.")
    count: NonNegative = Field(1, description="How often in a row; the time doubles with each.")
    until: Time = Field(description="When the node is considered again.")


class Term(Model):
    """One term of a score."""

    name: str = Field(max_length=64, description="The term.")
    weight: PerMille = Field(description="Its weight, per thousand of all weights.")
    value: PerMille = Field(description="Its value, per thousand.")


class Figures(Model):
    """The numbers behind the terms of one node, as if the replica were there. What is absent was not known."""

    cores: Figure = Field(description="C: allocatable cores.")
    free_cores: Figure = Field(description="R: free of them, live blended with requested by confidence.")
    requested_cores: Figure = Field(description="Sum of the requests on the node, in cores.")
    in_flight_cores: Figure = Field(description="Of which placed too recently to show in the live figure.")
    live_cores: Figure | None = Field(None, description="Cores in use, as measured.")
    live_at: Time | None = Field(None, description="When that was measured.")
    confidence: PerMille = Field(0, description="How far the measured figure was trusted, per thousand.")
    load: PerMille = Field(0, description="l = 1 - R/C, per thousand.")
    capability: PerMille = Field(0, description="K over the largest K, per thousand, where K = C R / T.")
    transfer_seconds: Figure | None = Field(None, description="T_d: seconds to pack, send and receive one request.")
    completion_seconds: Figure | None = Field(None, description="Seconds until one request would be answered.")


class RunnerUp(Model):
    """A node that was not chosen."""

    node: str = Field(max_length=253, description="The node.")
    site: str = Field("", max_length=63, description="Its site.")
    score: PerMille = Field(0, description="Its score, per thousand.")
    reason: str = Field("", max_length=256, description="Why another was better.")
    terms: tuple[Term, ...] = Field((), max_length=16, description="Its score by term.", json_schema_extra=_ATOMIC)
    figures: Figures | None = Field(None, description="The numbers behind its terms.")


class Rejected(Model):
    """Nodes that could not be chosen, by reason."""

    reason: str = Field(max_length=128, description="Reason code of the constraint.")
    count: NonNegative = Field(description="How many nodes.")
    nearest_miss: str = Field("", max_length=256, description="The node that came nearest and what it lacks.")


class Explanation(Model):
    """Why here and why not there, as of the last decision."""

    node: str = Field("", max_length=253, description="The best of the nodes that were chosen; the terms are its.")
    decided_at: Time | None = Field(None, description="When this was decided.")
    figures: Figures | None = Field(None, description="The numbers behind the chosen node's terms.")
    notes: tuple[Annotated[str, Field(max_length=512)], ...] = Field(
        (), max_length=10, description="What was not believed and why.", json_schema_extra=_ATOMIC
    )
    summary: tuple[Annotated[str, Field(max_length=512)], ...] = Field(
        (), max_length=16, description="Why here and why not there, a line each, to be read.", json_schema_extra=_ATOMIC
    )
    terms: tuple[Term, ...] = Field(
        (), max_length=16, description="The chosen node's score by term.", json_schema_extra=_ATOMIC
    )
    runners_up: tuple[RunnerUp, ...] = Field(
        (), max_length=3, description="The best nodes that were not chosen.", json_schema_extra=_ATOMIC
    )
    rejected: tuple[Rejected, ...] = Field(
        (), max_length=10, description="Nodes that could not be chosen, by reason.", json_schema_extra=_ATOMIC
    )
    data_age: str | None = Field(None, max_length=32, description="Age of the oldest figure that was used.")
    order: str = Field("", max_length=256, description="Whose turn it was: priority tier, P and place in the order.")
    message: str = Field("", max_length=4096, description="Why replicas are missing; empty when none is.")
    share_of_bound: PerMille | None = Field(
        None, description="Score of the job's priority tier over an upper bound of it, per thousand."
    )


class Moves(Model):
    """Moves in the current window, counted so that a new leader keeps to the same budget."""

    window_start: Time | None = Field(None, description="When the window began.")
    count: NonNegative = Field(0, description="Moves since then.")


class ProposedMove(Model):
    """A move that would gain; it is made when it still does after some evaluations in a row."""

    source: str = Field(max_length=253, description="Node that a replica would leave.")
    target: str = Field(max_length=253, description="Node that it would go to.")
    evaluations: NonNegative = Field(1, description="Evaluations in a row that found the gain.")
    last_at: Time = Field(description="When it was last found.")


class Nomination(Model):
    """A place that is being made free by preemption."""

    site: SiteName = Field(description="Site.")
    node: str = Field(max_length=253, description="Node.")
    victims: tuple[Annotated[str, Field(max_length=317)], ...] = Field(
        (), max_length=100, description="Jobs that give way, as namespace/name.", json_schema_extra=_ATOMIC
    )
    until: Time = Field(description="When the claim ends if the place is not free by then.")


class ScalingStatus(Model):
    """How the number of replicas was found."""

    replicas: NonNegative = Field(description="Replicas wanted.")
    arrivals: Figure | None = Field(None, description="Requests a second, all sites.")
    throughput: Figure | None = Field(None, description="Requests a second that one replica sustains.")
    measured_at: Time | None = Field(None, description="When.")
    low_since: Time | None = Field(None, description="Since when fewer would do.")
    low_peak: NonNegative = Field(0, description="The most wanted since then.")
    message: str = Field("", max_length=512, description="Why this many.")


class LearnedSite(Model):
    """What a site's measurements correct."""

    site: SiteName = Field(description="Site.")
    execution: Figure | None = Field(None, description="Measured over predicted time of execution.")
    transfer: Figure | None = Field(None, description="Measured over predicted time of transfer.")
    samples: NonNegative = Field(0, description="Requests behind it.")
    measured_at: Time | None = Field(None, description="When it was last found so.")


class RightSizing(Model):
    """Requests that the measured use suggests; nothing applies them."""

    cpu: str = Field("", max_length=32, description="CPU.")
    memory: str = Field("", max_length=32, description="Memory.")
    basis: str = Field("", max_length=256, description="From what.")


class Learned(Model):
    """What was learned from the runtimes."""

    satisfaction: PerMille | None = Field(None, description="Share of requests within slo, per thousand.")
    window: str | None = Field(None, max_length=32, description="Time that the share covers.")
    service_seconds: Figure | None = Field(None, description="Seconds of one request at speed 1.")
    sites: tuple[LearnedSite, ...] = Field((), max_length=20, description="By site.", json_schema_extra=_ATOMIC)
    right_sizing: RightSizing | None = Field(None, description="A proposal.")


class InferenceJobStatus(Model):
    """What is so."""

    observed_generation: NonNegative = Field(0, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (), max_length=32, description="Conditions.", json_schema_extra=keyed("type")
    )
    priority: PriorityStatus | None = Field(None, description="The priority as of the last decision.")
    model_version: str | None = Field(None, max_length=63, description="Version that the job should serve.")
    model_digest: Digest | None = Field(None, description="Digest that the job should serve.")
    replicas: NonNegative = Field(0, description="Replicas placed.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")
    selector: str = Field(
        "", max_length=1024, description="Label selector of the job's pods, for the scale subresource."
    )
    sites: SitesStatus | None = Field(None, description="Sites that the job should serve at.")
    decisions: tuple[Decision, ...] = Field(
        (),
        max_length=200,
        description="What was decided per site, sites that are not ready first.",
        json_schema_extra=_ATOMIC,
    )
    decisions_omitted: NonNegative = Field(0, description="Sites that the list has no room for.")
    exclusions: tuple[Exclusion, ...] = Field(
        (), max_length=100, description="Nodes that are left out for a while.", json_schema_extra=_ATOMIC
    )
    explanation: Explanation | None = Field(None, description="Why here and why not there.")
    moves: Moves | None = Field(None, description="Moves in the current window.")
    proposed_move: ProposedMove | None = Field(None, description="A move that is being considered.")
    nomination: Nomination | None = Field(None, description="A place that is being made free.")
    scaling: ScalingStatus | None = Field(None, description="How the number of replicas was found.")
    learned: Learned | None = Field(None, description="What was learned from the runtimes.")
    pod_rollout: dict[str, Any] | None = Field(
        None, description="How far a change of the pods is.", json_schema_extra=_OPAQUE
    )
