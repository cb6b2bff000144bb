from __future__ import annotations

import base64
import json

import pytest

from edgeward_runtime.fetch.credentials import Credentials


def write(folder, auths, name="config.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"auths": auths}))
    return Credentials(folder=folder)


def auth(user, password="pw"):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "key",
    [
        "r.example.com",
        "https://r.example.com",
        "https://r.example.com/v1/",
        "https://r.example.com/v2",
        "R.Example.com",
    ],
)
def test_a_login_is_found_in_every_form_that_tools_write(tmp_path, key):
    login = write(tmp_path, {"other.example.com": auth("no"), key: auth("yes")}).login("r.example.com")
    assert login is not None and (login.user, login.password) == ("yes", "pw")


def test_the_port_is_part_of_the_host(tmp_path):
    found = write(tmp_path, {"r.example.com:5000": auth("yes")})
    assert found.login("r.example.com:5000") is not None and found.login("r.example.com") is None
    assert found.login("evil-r.example.com:5000") is None


def test_the_longest_path_wins(tmp_path):
    found = write(tmp_path, {"r": auth("all"), "r/team": auth("team"), "r/team/models": auth("models")})
    users = {path: found.login("r", path).user for path in ("x", "team", "team/x", "team/models/m", "teamwork")}
    assert users == {"x": "all", "team": "team", "team/x": "team", "team/models/m": "models", "teamwork": "all"}


def test_a_folder_for_each_secret_and_what_kubelet_adds(tmp_path):
    write(tmp_path / "b", {"r": auth("b")}, name=".dockerconfigjson")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "AWS_ACCESS_KEY_ID").write_text("AKIA\n")
    (tmp_path / "..2024_data").mkdir()
    (tmp_path / "..2024_data" / "AWS_ACCESS_KEY_ID").write_text("old")
    found = Credentials(folder=tmp_path)
    assert found.login("r").user == "b" and found.text("AWS_ACCESS_KEY_ID") == "AKIA" and found.text("x") == ""


def test_a_secret_that_changes_holds_at_once(tmp_path):
    found = write(tmp_path, {"r": auth("old")})
    write(tmp_path, {"r": auth("new")})
    assert found.login("r").user == "new"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"auths": []}', '{"auths": {"r": 1}}', '{"auths": {"r": {"auth": "%"}}}']
)
def test_rubbish_is_no_login(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert Credentials(folder=tmp_path).login("r") is None


def test_no_folder():
    assert Credentials().login("r") is None and Credentials().text("x") == ""


def test_a_login_shows_nothing(tmp_path):
    login = write(
        tmp_path, {"r": {**auth("user", "secret-1"), "identitytoken": "secret-2", "registrytoken": "secret-3"}}
    )
    assert "secret" not in repr(login.login("r")) and "user" not in repr(login.login("r"))
    assert login.login("r").identity_token == "secret-2" and login.login("r").registry_token == "secret-3"
