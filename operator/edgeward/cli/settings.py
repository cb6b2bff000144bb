"""The operator's configuration: one file, every key checked, unknown ones refused. The chart writes this file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from edgeward.agent.settings import AgentSettings
from edgeward.cluster.lease import LeaseSettings
from edgeward.fleet.redaction import Redaction
from edgeward.fleet.settings import BuildSettings
from edgeward.hub.hub import HubSettings
from edgeward.hub.planner import PlannerSettings
from edgeward.metrics.profiles import METRICS_API, PROFILES, Profile, Query
from edgeward.placement.settings import LearningSettings, PlanSettings, ScalingSettings, Weights
from edgeward.registry.repository import Reach


class SettingsError(Exception):
    """The configuration cannot be used; the message names each key and what is wrong with it."""


class _Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class QuerySettings(_Section):
    value: str
    measured_at: str


class QueriesSettings(_Section):
    """A profile of one's own. WINDOW in a query stands for `window`."""

    node_label: str = "node"
    cpu: QuerySettings
    memory: QuerySettings


class MetricsSettings(_Section):
    prometheus_url: str = ""
    """empty: only the metrics.k8s.io API is asked"""
    profile: Literal["Kubelet", "NodeExporter", "MetricsApi"] = "Kubelet"
    queries: QueriesSettings | None = None
    window: str = Field("1m", pattern=r"^\d+[sm]$")
    scrape_interval: float = Field(15.0, gt=0)
    """seconds between two scrapes of Prometheus; samples of up to two of them are fresh"""
    poll_interval: float = Field(10.0, gt=0)
    traffic_interval: float = Field(15.0, ge=1)
    """seconds between two readings of what the runtimes counted"""
    deadline: float = Field(5.0, gt=0)
    expiry: float = Field(180.0, gt=0)
    fallback: bool = True
    """ask metrics.k8s.io when Prometheus has nothing to say"""

    def profile_in_use(self) -> Profile | None:
        if self.queries is not None:
            own = self.queries
            return Profile(
                name="Custom",
                node_label=own.node_label,
                cpu=Query(own.cpu.value, own.cpu.measured_at),
                memory=Query(own.memory.value, own.memory.measured_at),
            )
        return None if self.profile == METRICS_API else PROFILES[self.profile]


class RuntimeSettings(_Section):
    image: str = AgentSettings().runtime_image
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    architectures: tuple[str, ...] = ("amd64", "arm64")
    redaction: Redaction = "Raw"


class RegistriesSettings(_Section):
    """How the operator itself asks registries, for spec.track and pins; the runtimes have their own."""

    plain_http: tuple[str, ...] = ()
    """HOST[:PORT] of registries without TLS"""
    ca_bundle_file: str = ""
    """PEM, trusted beside the system's"""
    timeout: float = Field(10.0, gt=0)
    """seconds for a connect or one read"""
    deadline: float = Field(30.0, gt=0)
    """seconds for one request with all of its answer"""

    def reach(self) -> Reach:
        return Reach(
            plain_http=frozenset(self.plain_http),
            ca_bundle=Path(self.ca_bundle_file) if self.ca_bundle_file else None,
            timeout=self.timeout,
            total=self.deadline,
        )


class StoreSettings(_Section):
    storage_class_name: str = AgentSettings().store_class
    size: str = AgentSettings().store_size


class TimingSettings(_Section):
    """Seconds."""

    tick: float = Field(5.0, gt=0)
    coalesce: float = Field(1.0, ge=0)
    refused_after: float = Field(60.0, gt=0)
    pool_patience: float = Field(600.0, gt=0)
    dwell: float = Field(600.0, ge=0)
    move_window: float = Field(3600.0, gt=0)
    min_run_time: float = Field(300.0, ge=0)
    nomination_ttl: float = Field(120.0, gt=0)
    evaluation_interval: float = Field(15.0, gt=0)
    lift_after: float = Field(600.0, gt=0)
    gone_after: float = Field(600.0, gt=0)
    lease_duration: float = Field(10.0, ge=3)
    lease_renew_deadline: float = Field(6.0, gt=0)
    lease_retry: float = Field(1.5, gt=0)
    resync: float = Field(20.0, gt=0)
    watch_dead_after: float = Field(60.0, gt=0)


class SolverSettings(_Section):
    """Seconds."""

    idle: float = Field(PlannerSettings().idle, gt=0)
    """the solver process ends when it had nothing to do for so long"""
    patience: float = Field(PlannerSettings().patience, ge=0)
    """the longest that many new replicas wait for its advice"""
    deadline: float = Field(PlannerSettings().deadline, gt=0)
    """after which one that does not answer is killed"""


class PlacementSettings(_Section):
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    gain: float = Field(0.15, ge=0, le=1)
    evaluations: int = Field(3, ge=1)
    max_priority_tier: int = Field(5, ge=1, le=5)
    """of a namespace whose labels do not say"""
    moves_per_job: int = Field(2, ge=0)
    moves_per_site: int = Field(10, ge=0)
    preemption: bool = True


class LearningSection(_Section):
    """What is taken from what the runtimes measured."""

    enabled: bool = True
    bound: float = Field(4.0, ge=1, allow_inf_nan=False)
    headroom_cpu: float = Field(1.15, ge=1, allow_inf_nan=False)
    headroom_memory: float = Field(1.3, ge=1, allow_inf_nan=False)


class ScalingSection(_Section):
    """Of jobs with spec.scaling; durations in seconds."""

    utilization: float = Field(0.7, gt=0, le=1)
    tolerance: float = Field(0.1, ge=0, lt=1)
    window: float = Field(300.0, ge=0, allow_inf_nan=False)
    stale_after: float = Field(60.0, gt=0, allow_inf_nan=False)


class OperatorSettings(_Section):
    namespace: str = "edgeward"
    port: int = Field(8081, ge=1, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics: MetricsSettings = MetricsSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    store: StoreSettings = StoreSettings()
    timing: TimingSettings = TimingSettings()
    placement: PlacementSettings = PlacementSettings()
    solver: SolverSettings = SolverSettings()
    scaling: ScalingSection = ScalingSection()
    learning: LearningSection = LearningSection()
    registries: RegistriesSettings = RegistriesSettings()

    def hub(self) -> HubSettings:
        timing, placement = self.timing, self.placement
        return HubSettings(
            namespace=self.namespace,
            tick=timing.tick,
            coalesce=timing.coalesce,
            planner=PlannerSettings(
                idle=self.solver.idle, patience=self.solver.patience, deadline=self.solver.deadline
            ),
            build=BuildSettings(
                refused_after=timing.refused_after,
                pool_patience=timing.pool_patience,
                scrape_interval=self.metrics.scrape_interval,
                architectures=frozenset(self.runtime.architectures),
                learning=self.learning.enabled,
                max_priority_tier=self.placement.max_priority_tier,
            ),
            plan=PlanSettings(
                weights=Weights(**placement.weights),
                learning=LearningSettings(**self.learning.model_dump()),
                gain=placement.gain,
                evaluations=placement.evaluations,
                evaluation_interval=timing.evaluation_interval,
                dwell=timing.dwell,
                moves_per_job=placement.moves_per_job,
                moves_per_site=placement.moves_per_site,
                move_window=timing.move_window,
                preemption=placement.preemption,
                min_run_time=timing.min_run_time,
                nomination_ttl=timing.nomination_ttl,
                lift_after=timing.lift_after,
                gone_after=timing.gone_after,
                expiry=self.metrics.expiry,
                scaling=ScalingSettings(**self.scaling.model_dump()),
            ),
        )

    def agent(self) -> AgentSettings:
        return AgentSettings(
            namespace=self.namespace,
            runtime_image=self.runtime.image,
            image_pull_policy=self.runtime.pull_policy,
            surge_patience=self.timing.refused_after,
            store_class=self.store.storage_class_name,
            store_size=self.store.size,
            redaction=self.runtime.redaction,
        )

    def lease(self) -> LeaseSettings:
        timing = self.timing
        return LeaseSettings(
            duration=timing.lease_duration, renew_deadline=timing.lease_renew_deadline, retry=timing.lease_retry
        )


def load(path: str | None) -> OperatorSettings:
    """Read a YAML file; None means all defaults. Raises SettingsError."""
    raw: object = {}
    if path:
        try:
            raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: {error}") from error
    try:
        settings = OperatorSettings.model_validate(raw)
        if settings.timing.lease_renew_deadline >= settings.timing.lease_duration:
            raise SettingsError("timing.leaseRenewDeadline must be below timing.leaseDuration")
        if settings.timing.lease_retry >= settings.timing.lease_renew_deadline:
            raise SettingsError(
                "timing.leaseRetry must be below timing.leaseRenewDeadline, or no holder keeps its lease"
            )
        if settings.scaling.stale_after < 2 * settings.metrics.traffic_interval:
            raise SettingsError(
                "scaling.staleAfter must be at least twice metrics.trafficInterval, or figures are old before new ones come"
            )
        if not any(asdict(Weights(**settings.placement.weights)).values()):
            raise SettingsError("placement.weights: at least one must be above 0")
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}" for item in error.errors()
        )
        raise SettingsError("; ".join(problems)) from error
    except TypeError as error:
        raise SettingsError(f"placement.weights: {error}") from error
    return settings
