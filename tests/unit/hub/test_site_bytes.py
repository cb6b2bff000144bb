from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from edgeward.hub.site_bytes import SiteBytes


def model(version: str, **more: Any) -> dict[str, Any]:
    return {"name": "reader", "version": version, "digest": f"sha256:{version}", **more}


def at(site: str, *models: dict[str, Any]) -> dict[str, Any]:
    job = {"namespace": "shop", "name": "signs"}
    labels = {"edgeward.dev/site": site}
    return {"metadata": {"name": f"signs-{site}", "labels": labels}, "spec": {"job": job}, "status": {"models": models}}


def page(*assignments: dict[str, Any]) -> list[str]:
    registry = CollectorRegistry()
    registry.register(SiteBytes(lambda: assignments))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_bytes_and_seconds_of_each_site() -> None:
    nothing_yet = {"metadata": {"name": "new"}, "spec": {"job": {"namespace": "shop", "name": "signs"}}}
    lines = page(
        at("north", model("1", received=10, shared=20, seconds="1.5"), model("2", received=3)),
        at("south", model("1", received=30)),
        nothing_yet,
    )
    of = 'job="signs",model="reader",namespace="shop"'
    assert f'edgeward_model_received_bytes_total{{{of},site="north",version="1"}} 10.0' in lines
    assert f'edgeward_model_received_bytes_total{{{of},site="south",version="1"}} 30.0' in lines
    assert f'edgeward_model_shared_bytes_total{{{of},site="north",version="1"}} 20.0' in lines
    assert f'edgeward_model_fetch_seconds{{{of},site="north",version="1"}} 1.5' in lines
    assert not any("fetch_seconds" in line and 'version="2"' in line for line in lines), "it is still coming"


def test_one_series_of_a_name_whatever_digests_there_are() -> None:
    again = {**model("1", received=7), "digest": "sha256:other"}
    assert sum("received" in line for line in page(at("north", model("1", received=5), again))) == 1
