"""What a job's capture comes down to at a site."""

from __future__ import annotations

from edgeward.api.assignment import Assignment
from edgeward.api.inferencejob import Capture
from edgeward.fleet.model import Fleet, Site
from edgeward.fleet.redaction import DEFAULT, Redaction, of_label, strictest


def allowed(fleet: Fleet, namespace: str) -> Redaction:
    """The most that the namespace lets its jobs keep."""
    said = next((item.redaction for item in fleet.namespaces if item.name == namespace), None)
    return strictest([said])


def allowed_at(site: Site | None, namespace: Redaction, there: Assignment | None) -> Redaction:
    """With the site's own word. One that is not known now lets no more be kept than it did."""
    if site is not None:
        return strictest([namespace, of_label(site.labels)])
    present = there.spec.effective.capture if there is not None else None
    return strictest([namespace, present.redaction if present is not None else None])


def limited(capture: Capture | None, most: Redaction) -> Capture | None:
    """The capture with the redaction that holds, which is always said."""
    if capture is None:
        return None
    return capture.model_copy(update={"redaction": strictest([capture.redaction or DEFAULT, most])})
