"""The kinds by name: what a client needs to build a path, and the reader of any object of the group."""

from collections.abc import Mapping
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import API_VERSION, GROUP, VERSION, ApiError, KindInfo, KubeObject, parse
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.api.site import Site
from edgeward.api.sitereport import SiteReport

__all__ = [
    "API_VERSION",
    "ASSIGNMENTS",
    "GROUP",
    "INFERENCE_JOBS",
    "KINDS",
    "MODELS",
    "MODEL_RELEASES",
    "SITES",
    "SITE_REPORTS",
    "VERSION",
    "AnyObject",
    "parse_object",
]

AnyObject = InferenceJob | ModelRelease | Site | SiteReport | Assignment

INFERENCE_JOBS = InferenceJob.info.plural
MODEL_RELEASES = ModelRelease.info.plural
SITES = Site.info.plural
SITE_REPORTS = SiteReport.info.plural
ASSIGNMENTS = Assignment.info.plural

MODELS: tuple[type[KubeObject], ...] = (InferenceJob, ModelRelease, Site, SiteReport, Assignment)
_BY_KIND: dict[str, type[AnyObject]] = {
    "InferenceJob": InferenceJob,
    "ModelRelease": ModelRelease,
    "Site": Site,
    "SiteReport": SiteReport,
    "Assignment": Assignment,
}
KINDS: dict[str, KindInfo] = {kind: model.info for kind, model in _BY_KIND.items()}


def parse_object(raw: Mapping[str, Any], *, strict: bool = False) -> AnyObject:
    """Read a wire object by its kind. Raises ApiError for another group, version or kind too."""
    if raw.get("apiVersion") != API_VERSION:
        raise ApiError(subject="object", problems=(("apiVersion", f"must be {API_VERSION}"),))
    model = _BY_KIND.get(str(raw.get("kind")))
    if model is None:
        raise ApiError(subject="object", problems=(("kind", f"must be one of {', '.join(_BY_KIND)}"),))
    return parse(model, raw, strict=strict)
