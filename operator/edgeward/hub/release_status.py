"""What the hub says about releases. Pure, as status.py."""

from __future__ import annotations

from collections.abc import Mapping

from edgeward.api.common import Condition
from edgeward.api.conditions import ConditionType, Reason, remove_condition, set_condition, set_outcome
from edgeward.api.modelrelease import ModelRelease, ModelReleaseStatus, ReleaseException, ReleaseSites, RolloutStatus
from edgeward.rollout.site_step import SiteState
from edgeward.rollout.step import ReleaseStep

from .verdict import Verdict

LISTED_EXCEPTIONS = 50


def release_status(release: ModelRelease, problem: str, step: ReleaseStep, *, now: float) -> ModelReleaseStatus:
    """The status of a release that can be read. `problem` is a reason and a message, empty when there is none."""
    before = release.status
    counts = {state: step.count(state) for state in SiteState}
    if problem:
        reason, _, message = problem.partition(" ")
        verdict = Verdict(Reason(reason), message)
    else:
        verdict = judge_release(release, step, counts)
    target = step.target
    current = step.current
    conditions = set_outcome(
        before.conditions, reason=verdict.reason, message=verdict.message, generation=release.generation, now=now
    )
    conditions = remove_condition(conditions, ConditionType.ROLLED_BACK)
    if verdict.reason is Reason.ROLLED_BACK:
        conditions = set_condition(
            (*conditions, *(one for one in before.conditions if one.type == ConditionType.ROLLED_BACK)),
            type=ConditionType.ROLLED_BACK,
            status=True,
            reason=verdict.reason,
            message=verdict.message,
            generation=release.generation,
            now=now,
        )
    conditions = _following(conditions, release, step, now=now)
    return ModelReleaseStatus(
        observed_generation=release.generation,
        conditions=conditions,
        current_version=current.version if current else None,
        current_digest=current.digest if current else None,
        target_version=target.version if target else None,
        target_digest=target.digest if target else None,
        sites=ReleaseSites(
            total=sum(counts.values()),
            updated=counts[SiteState.UPDATED],
            pending=counts[SiteState.PENDING],
            failed=counts[SiteState.FAILED],
            offline=counts[SiteState.OFFLINE],
            summary=_summary(counts),
        ),
        exceptions=_exceptions(step),
        wave=_wave(release, step),
        rollout=step.remembered,
        refused=step.refused,
        history=step.history,
        gates=step.gates,
        tracked=step.tracked,
    )


def _following(
    conditions: tuple[Condition, ...], release: ModelRelease, step: ReleaseStep, *, now: float
) -> tuple[Condition, ...]:
    """How it stands with the repository of spec.track. A registry that is away leaves Ready as it is: what was taken from it
    before serves on."""
    track, taken = release.spec.track, step.tracked
    if track is None:
        return remove_condition(conditions, ConditionType.FOLLOWING)
    word, _, text = step.following.partition(": ")
    passed_over = word == Reason.PASSED_OVER
    known = f"{taken.version} stays" if taken else "no version is known"
    newest = f"{taken.version} is the newest of {track.constraint}" if taken else ""
    if not word or passed_over:
        said = "; ".join(part for part in (newest, text) if part)
    else:
        said = f"{track.repository}: {step.following}; {known}"
    return set_condition(
        conditions,
        type=ConditionType.FOLLOWING,
        status=not word or passed_over,
        reason=Reason.NEWEST if not word else Reason.PASSED_OVER if passed_over else Reason.LOOK_FAILED,
        message=said[:1024],
        generation=release.generation,
        now=now,
    )


def _nothing_taken(release: ModelRelease, step: ReleaseStep) -> Verdict | None:
    """Why spec.track has come to no version yet."""
    track, word = release.spec.track, step.following.partition(":")[0]
    if track is None or step.target is not None:
        return None
    reasons = {
        "PendingEvaluation": Reason.WAITING_FOR_DATA,
        "SignatureFailed": Reason.SIGNATURE_FAILED,
    }
    return Verdict(reasons.get(word, Reason.FETCH_FAILED), f"{track.repository}: {step.following}"[:1024])


def _summary(counts: Mapping[SiteState, int]) -> str:
    """What `kubectl get` has one column for."""
    others = (f"{counts[state]} {state.lower()}" for state in (SiteState.FAILED, SiteState.OFFLINE) if counts[state])
    return ", ".join((f"{counts[SiteState.UPDATED]}/{sum(counts.values())}", *others))


def _wave(release: ModelRelease, step: ReleaseStep) -> str | None:
    """Name of the wave that is on its way."""
    said = step.remembered
    waves = release.spec.rollout.waves if release.spec.rollout else ()
    if said is None or said.phase not in ("Rolling", "Baking") or said.wave >= len(waves):
        return None
    return waves[said.wave].name


def judge_release(release: ModelRelease, step: ReleaseStep, counts: Mapping[SiteState, int]) -> Verdict:
    nothing = _nothing_taken(release, step)
    if nothing is not None:
        return nothing
    total = sum(counts.values())
    version = step.target.version if step.target else release.spec.version or ""
    told = f"{counts[SiteState.UPDATED]}/{total} sites serve {version}"
    if step.decision is not None and step.remembered is not None and total:
        of_rollout = _of_rollout(release, step, step.remembered, told)
        if of_rollout is not None:
            return of_rollout
    if counts[SiteState.FAILED]:
        worst = next(item for item in step.sites if item.state is SiteState.FAILED)
        keeps = f"; {worst.site} keeps {worst.serves.version}" if worst.serves else ""
        return Verdict(Reason(worst.reason), f"{told}; {worst.site}: {worst.message}{keeps}")
    if release.spec.paused and counts[SiteState.PENDING]:
        return Verdict(Reason.PAUSED, f"{told}; spec.paused holds the others")
    if counts[SiteState.PENDING]:
        return Verdict(Reason.ROLLING_OUT, told)
    offline = f", {counts[SiteState.OFFLINE]} offline catch up by themselves" if counts[SiteState.OFFLINE] else ""
    if total == 0:
        return Verdict(Reason.NOTHING_WANTED, "no job serves this model yet")
    warned = next((item for item in step.sites if item.serves and item.serves.warning), None)
    warning = f"; {warned.site}: {warned.serves.warning}" if warned and warned.serves else ""
    return Verdict(Reason.RELEASED, told + _variants(step) + offline + warning)


def _of_rollout(release: ModelRelease, step: ReleaseStep, said: RolloutStatus, told: str) -> Verdict | None:
    """What a rollout in waves says for itself; None where it is done and the sites have the word."""
    if said.phase == "RolledBack":
        back = f"; {step.current.version} serves" if step.current else ""
        return Verdict(Reason.ROLLED_BACK, f"{said.why}{back}")
    if release.spec.paused and said.phase != "Done":
        return Verdict(Reason.PAUSED, f"{told}; spec.paused holds the others")
    if said.hold:
        return Verdict(Reason.PAUSED, f"{told}; {said.waits_for}")
    if said.phase == "Done":
        return None
    wave = _wave(release, step)
    place = (
        f"wave {wave} ({said.wave + 1} of {len(release.spec.rollout.waves)})" if wave and release.spec.rollout else ""
    )
    waits_for_data = step.decision is not None and step.decision.no_data
    return Verdict(
        Reason.WAITING_FOR_DATA if waits_for_data else Reason.ROLLING_OUT,
        ", ".join(part for part in (told, place) if part) + f"; waits for {said.waits_for}",
    )


def _variants(step: ReleaseStep) -> str:
    """At how many sites it is another artifact than the main one."""
    sites: dict[str, set[str]] = {}
    for item in step.sites:
        if item.variant and item.state is SiteState.UPDATED:
            sites.setdefault(item.variant, set()).add(item.site)
    said = ", ".join(f"{len(names)} its variant {variant}" for variant, names in sorted(sites.items()))
    return f" ({said})" if said else ""


def _exceptions(step: ReleaseStep) -> tuple[ReleaseException, ...]:
    found = [
        ReleaseException(
            site=item.site,
            job=item.job.partition("/")[2],
            version=item.serves.version if item.serves else None,
            digest=item.serves.digest if item.serves else None,
            state=item.state.value,
            reason=item.reason,
            message=(f"variant {item.variant}: {item.message}" if item.variant else item.message)[:1024],
        )
        for item in step.sites
        if item.state is not SiteState.UPDATED
    ]
    order = {"Failed": 0, "Pending": 1, "Offline": 2}
    return tuple(sorted(found, key=lambda item: (order[item.state], item.site, item.job))[:LISTED_EXCEPTIONS])
