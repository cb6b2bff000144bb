from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeward_runtime.settings import _PARSERS, Settings, SettingsError, from_environment


def test_defaults_and_every_setting_has_a_parser():
    assert from_environment({"PATH": "/bin"}) == Settings()
    assert {field.name for field in dataclasses.fields(Settings)} == set(_PARSERS)


def test_values():
    settings = from_environment({"EDGEWARD_PORT": "9000", "EDGEWARD_STORE": "/s", "EDGEWARD_LOG_LEVEL": "DEBUG"})
    assert (settings.port, settings.store, settings.log_level) == (9000, Path("/s"), "debug")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("EDGEWARD_PORT", "x"),
        ("EDGEWARD_PORT", "70000"),
        ("EDGEWARD_PORT", "-1"),
        ("EDGEWARD_STORE", ""),
        ("EDGEWARD_QUEUE", "0"),
        ("EDGEWARD_DRAIN_SECONDS", "nan"),
        ("EDGEWARD_DRAIN_SECONDS", "inf"),
        ("EDGEWARD_LOG_LEVEL", "loud"),
        ("EDGEWARD_PROT", "1"),
    ],
)
def test_wrong_ones_are_named(key, value):
    with pytest.raises(SettingsError, match=key):
        from_environment({key: value})


def test_variables_that_kubernetes_adds_for_a_service_called_edgeward():
    names = [
        "EDGEWARD_SERVICE_HOST",
        "EDGEWARD_SERVICE_PORT",
        "EDGEWARD_PORT_80_TCP_ADDR",
        "EDGEWARD_API_PORT_80_TCP",
        "EDGEWARD_API_SERVICE_PORT_HTTP",
    ]
    assert (
        from_environment({**dict.fromkeys(names, "tcp://10.0.0.1:80"), "EDGEWARD_PORT": "tcp://10.0.0.1:80"})
        == Settings()
    )
