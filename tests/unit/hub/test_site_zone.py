"""A Site whose time zone nobody knows is told so, by the name of the field."""

from __future__ import annotations

import pytest

from edgeward.api.common import parse
from edgeward.api.site import Site
from edgeward.fleet.model import Fleet
from edgeward.hub.site_status import site_status
from edgeward.placement.model import Plan


def ready_of(zone: str) -> tuple[str, str, str] | None:
    raw = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "Site",
        "metadata": {"name": "shop", "generation": 1},
        "spec": {"timeZone": zone, "windows": [{"start": "02:00", "duration": "3h"}]},
    }
    found = site_status(parse(Site, raw), plan=Plan(), fleet=Fleet(now=0.0), overlaps=(), version="1").conditions
    return next(((one.status, one.reason, one.message) for one in found if one.type == "Ready"), None)


def test_a_time_zone_that_is_known_is_nothing_to_speak_of():
    assert ready_of("Europe/Zurich") is None


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe"])
def test_one_that_is_not_known_is_named(zone):
    status, reason, message = ready_of(zone)
    assert (status, reason) == ("False", "InvalidSpec")
    assert message.startswith(f"spec.timeZone: '{zone}'")
