"""What the story does around kubectl, with a program of the tests in its place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.demo.kube import Kubectl, StoryError, wait


def kubectl(folder: Path, script: str) -> Kubectl:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
    program.chmod(0o755)
    return Kubectl(program=str(program))


def test_a_port_forward_that_says_much_does_not_stand_still(tmp_path: Path) -> None:
    """A pipe holds 64 KiB; this says more on both."""
    script = """
        echo 'Warning: something' >&2
        echo 'Forwarding from 127.0.0.1:40417 -> 8080'
        i=0; while [ $i -lt 4000 ]; do echo 'Handling connection for 40417'; echo 'an error of one' >&2; i=$((i+1)); done
        touch said-all
        exec sleep 60"""
    with kubectl(tmp_path, script).forward("demo", "sign-reader", 80) as url:
        assert url == "http://127.0.0.1:40417"
        end = time.monotonic() + 10
        while not (tmp_path / "said-all").exists():
            assert time.monotonic() < end, "kubectl stands still"
            time.sleep(0.02)


def test_a_port_forward_that_fails_says_why(tmp_path: Path) -> None:
    forward = kubectl(tmp_path, "echo 'services not found' >&2; exit 1").forward("demo", "nothing", 80)
    with pytest.raises(StoryError, match="nothing: services not found"), forward:
        pass


def test_waiting_gives_what_was_looked_for_and_says_what_it_last_saw() -> None:
    looks = iter([{}, {}, {"reason": "Serving"}])
    assert wait("serving", lambda: next(looks), seconds=5, every=0.001) == {"reason": "Serving"}
    with pytest.raises(StoryError, match=r"serving did not come within 0.01 s: last \{\}"):
        wait("serving", dict, seconds=0.01, every=0.001)
    with pytest.raises(StoryError, match=r"within 0\.01 s: no pod runs"):
        wait("serving", dict, seconds=0.01, every=0.001, why=lambda: "no pod runs")
