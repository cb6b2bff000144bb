from __future__ import annotations

import importlib.util

import pytest

from edgeward_runtime import cli


@pytest.mark.parametrize("by", ["option", "setting"])
def test_grpc_without_its_packages_says_what_to_install(monkeypatch, capsys, by):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "grpc" else real(name))
    arguments = ["model.onnx"]
    if by == "option":
        arguments += ["--grpc-port", "8081"]
    else:
        monkeypatch.setenv("EDGEWARD_GRPC_PORT", "8081")
    with pytest.raises(SystemExit):
        cli.serve(arguments)
    assert "pip install edgeward-runtime[grpc]" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_ports_that_are_none(capsys, option):
    with pytest.raises(SystemExit):
        cli.serve(["model.onnx", option, "70000"])
    assert f"{option} 70000 is not between" in capsys.readouterr().err
