import os
from pathlib import Path

import pytest

from edgeward_runtime.guard import Guard, Tokens
from edgeward_runtime.settings import SettingsError, from_environment


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tokens(path: Path, clock: Clock, content: str = "first\n\n  second  \n") -> Tokens:
    path.write_text(content)
    return Tokens(path, clock=clock)


@pytest.mark.parametrize(
    ("authorization", "right"),
    [
        (b"Bearer first", True),
        (b"bearer  second ", True),
        (b"Bearer firs", False),
        (b"Bearer firstx", False),
        (b"Bearer ", False),
        (b"Bearer", False),
        (b"Basic first", False),
        (b"first", False),
        (b"", False),
        (None, False),
        ("Bearer firßt".encode(), False),
    ],
)
def test_tokens(tmp_path: Path, clock: Clock, authorization: bytes | None, right: bool) -> None:
    assert tokens(tmp_path / "t", clock).match(authorization) is right


def test_a_changed_file_is_read_again_soon_and_a_broken_one_is_not(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "t"
    one = tokens(path, clock)
    # As the kubelet does it: another file under the same name.
    (tmp_path / "new").write_text("third")
    os.replace(tmp_path / "new", path)
    assert one.match(b"Bearer first")
    clock.now = 1.0
    assert not one.match(b"Bearer first")
    assert one.match(b"Bearer third")
    path.write_text("\n")
    clock.now = 2.0
    assert one.match(b"Bearer third")
    path.unlink()
    clock.now = 3.0
    assert one.match(b"Bearer third")


def test_a_file_without_a_token_is_no_protection(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ValueError, match="no token"):
        tokens(tmp_path / "t", clock, " \n")


def test_what_is_asked_for_all_of_it(tmp_path: Path, clock: Clock) -> None:
    one = tokens(tmp_path / "t", clock)
    for certificates, token, certified, right in (
        (False, b"Bearer first", False, True),
        (False, None, True, False),
        (True, b"Bearer first", True, True),
        (True, b"Bearer first", False, False),
        (True, None, True, False),
    ):
        guard = Guard(tokens=one, certificates=certificates, refused={})
        assert guard.allows("/v2", authorization=token, certified=certified) is right
    refused: dict[int, int] = {401: 1}
    only = Guard(tokens=None, certificates=True, refused=refused)
    assert only.allows("/v2", authorization=None, certified=True)
    assert not only.allows("/v2", authorization=None, certified=False)
    assert refused == {401: 2}


def test_only_what_is_named_is_open(tmp_path: Path, clock: Clock) -> None:
    guard = Guard(tokens=tokens(tmp_path / "t", clock), certificates=False, refused={}, open_to=["health"])
    for path, right in (
        ("/v2/health/live", True),
        ("/v2/health/ready", True),
        ("/grpc.health.v1.Health/Check", True),
        ("/v2/health/live/", False),
        ("/v2/models/m/ready", False),
        ("/metrics", False),
        ("/edgeward/v1/status", False),
        ("", False),
    ):
        assert guard.allows(path, authorization=None, certified=False) is right


def test_settings_that_protect_less_than_they_seem_to_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    for values, says in (
        ({"TLS_CERT_FILE": str(file)}, "go together"),
        ({"TLS_KEY_FILE": str(file)}, "go together"),
        ({"TLS_CLIENT_CA_FILE": str(file)}, "needs EDGEWARD_TLS_CERT_FILE"),
        ({"OPEN": "health"}, "all is open"),
        ({"OPEN": "health,all", "TOKEN_FILE": str(file)}, "is not one of health, metrics, status"),
        ({"OPEN": "", "TOKEN_FILE": str(file)}, "is not one of"),
        ({"TOKEN_FILE": str(tmp_path / "none")}, "is not a file"),
    ):
        with pytest.raises(SettingsError, match=says):
            from_environment({f"EDGEWARD_{key}": value for key, value in values.items()})
    both = {"EDGEWARD_OPEN": "health, status", "EDGEWARD_TOKEN_FILE": str(file)}
    assert from_environment(both).open == {"health", "status"}
