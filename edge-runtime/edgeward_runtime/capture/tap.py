"""What the event loop and the thread that learns know of one model version: what is looked at, and how often."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from edgeward_runtime.artifact import reference
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.capture.feedback import Accuracy
from edgeward_runtime.capture.policy import BadPolicy, Policy, Redaction, Rule, Sampler, parse_rules
from edgeward_runtime.confidence import Scores
from edgeward_runtime.drift.monitor import Monitor
from edgeward_runtime.errors import Refusal
from edgeward_runtime.tensors import TensorSpec

_LOW_CONFIDENCE, _DRIFT = 0.6, 0.25
_FIRST_STRIDE = 256
_MOST_LABEL_BYTES = 2**20
_MOST_LABELS, _LONGEST_LABEL = 65536, 1024


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From the release's parameters: `capture: {lowConfidence: 0.6, drift: 0.25, rules: [...]}`."""

    low_confidence: float = _LOW_CONFIDENCE
    drift: float = _DRIFT  # PSI
    rules: tuple[Rule, ...] | None = None  # instead of the job's; None: those


def thresholds(parameters: Mapping[str, object]) -> Thresholds:
    """Refusal ParametersInvalid."""
    asked = parameters.get("capture", {})
    if not isinstance(asked, dict):
        raise _invalid("capture must be an object")
    try:
        rules = parse_rules(asked["rules"], []) if "rules" in asked else None
    except BadPolicy as error:
        raise _invalid(str(error)) from None
    return Thresholds(
        _threshold(asked, "lowConfidence", _LOW_CONFIDENCE, 1.0), _threshold(asked, "drift", _DRIFT, math.inf), rules
    )


def _threshold(asked: Mapping[str, object], key: str, default: float, highest: float) -> float:
    value = asked.get(key, default)
    if isinstance(value, str):
        # Kubernetes users write decimals as text.
        try:
            value = float(value)
        except ValueError:
            raise _invalid(f"capture.{key} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise _invalid(f"capture.{key} is {value!r:.50}, wanted a number from 0 to {highest:g}")
    return float(value)


def _invalid(message: str) -> Refusal:
    return Refusal(step="Load", reason="ParametersInvalid", message=message, permanent=True)


class Tap:
    """Made while the version is loaded. `everything`, `sampler` and `monitor` follow the policy in force."""

    __slots__ = (
        "__weakref__",
        "accuracy",
        "drifted",
        "due_ns",
        "everything",
        "inputs",
        "labels",
        "left",
        "looked_at",
        "monitor",
        "outputs",
        "reference",
        "sampler",
        "scores",
        "sketched",
        "stride",
        "thresholds",
        "version",
    )

    def __init__(
        self,
        *,
        version: tuple[str, str, str],
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        scores: Scores | None,
        parameters: Mapping[str, object],
        artifact: Artifact | None,
        accuracy: Accuracy,
    ) -> None:
        """Refusal for parameters or a reference that make no sense."""
        self.version = version
        self.accuracy = accuracy
        self.inputs, self.outputs, self.scores = inputs, outputs, scores
        self.thresholds = thresholds(parameters)
        self.reference = reference.read(artifact.reference) if artifact and artifact.reference else None
        self.labels = _told_labels(parameters) if "labels" in parameters else _labels(artifact)
        # In the event loop's thread: requests until the next look at one, and when there is one in any case.
        self.left = 0
        self.due_ns = 0
        self.everything = False  # every request is handed over, not only those for drift
        # In the thread that learns.
        self.stride = _FIRST_STRIDE
        self.sampler = Sampler(())
        self.monitor: Monitor | None = None
        self.drifted = False
        self.looked_at = 0.0
        self.sketched = False  # nothing was added since the last sketch

    def go_on_from(self, before: Tap) -> None:
        """The same version under other parameters: what its tensors were like stays true."""
        if before.scores == self.scores:
            self.monitor, self.stride = before.monitor, before.stride

    def follow(self, policy: Policy | None) -> None:
        """Drift is watched where the artifact brings a reference, and wherever anything may be kept."""
        learns = policy is not None and policy.redaction > Redaction.NONE
        self.everything = learns
        own = self.thresholds.rules
        self.sampler = Sampler(() if policy is None else policy.rules if own is None else own)
        if (learns or self.reference is not None) and self.monitor is None:
            monitor = Monitor(
                inputs=self.inputs,
                outputs=self.outputs,
                scores=self.scores,
                reference=self.reference,
                clock=time.monotonic,
            )
            self.monitor = monitor if monitor.watches else None
        elif not learns and self.reference is None:
            self.monitor = None
            self.drifted = False

    def counters(self) -> dict[str, object]:
        """Of this version, for who decides whether it may go on: labels told, and the tensor that is furthest off."""
        counted: dict[str, object] = {}
        rows = self.accuracy.rows.get(self.version)
        if rows is not None:
            counted["feedback"] = {result.lower(): count for result, count in rows.items()}
        known = [one for one in self.monitor.state() if one.score is not None] if self.monitor is not None else []
        if known:
            worst = max(known, key=lambda one: one.score.psi if one.score is not None else 0.0)
            assert worst.score is not None
            counted["drift"] = {
                "psi": round(worst.score.psi, 4),
                "ks": round(worst.score.ks, 4),
                "of": worst.of,
                "name": worst.name,
                "rows": worst.rows,
                "reference": worst.reference,
            }
        return counted

    @property
    def idle(self) -> bool:
        return not self.everything and self.monitor is None


def _told_labels(parameters: Mapping[str, object]) -> Mapping[str, int]:
    """The names of the classes as the release says them, in their order, in place of the artifact's. Refusal
    ParametersInvalid."""
    names = parameters["labels"]
    if (
        not isinstance(names, list)
        or len(names) > _MOST_LABELS
        or not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_LABEL for name in names)
    ):
        raise _invalid(
            f"labels must be a list of at most {_MOST_LABELS} names of classes, each of 1 to {_LONGEST_LABEL} characters"
        )
    return {name: number for number, name in reversed(list(enumerate(names)))}


def _labels(artifact: Artifact | None) -> Mapping[str, int]:
    """Class by name, a line each."""
    if artifact is None or artifact.labels is None or artifact.labels.stat().st_size > _MOST_LABEL_BYTES:
        return {}
    lines = artifact.labels.read_text(errors="replace").splitlines()
    return {line.strip(): number for number, line in reversed(list(enumerate(lines))) if line.strip()}
