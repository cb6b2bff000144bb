"""A registry that asks for tokens, changes its mind and lies; the real one is in the integration tests."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest

from edgeward_runtime.artifact.manifest import MEDIA_TYPE
from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import Access, Credentials, Limits, fetch, oci
from edgeward_runtime.fetch.http import Client
from edgeward_runtime.store import Store
from tests.runtime_artifacts import made
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

FILES = {"model.onnx": b"model" * 1000, "weights/w.bin": b"weights" * 1000, "copy.bin": b"model" * 1000}
BUILT = made(FILES)
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=5.0, total_seconds=60.0)


@pytest.fixture
def registry():
    with serving() as one:
        one.files[f"/v2/models/m/manifests/{BUILT.digest}"] = BUILT.manifest
        for content in FILES.values():
            one.files[f"/v2/models/m/blobs/{digest(content)}"] = content
        yield one


def host(source) -> str:
    return source.address.removeprefix("http://")


def get(tmp_path, registry, *, sources=(), wanted=BUILT.digest, logins=None, plain=True, **limits):
    (tmp_path / "secrets").mkdir(exist_ok=True)
    (tmp_path / "secrets" / "config.json").write_text(json.dumps({"auths": logins or {}}))
    access = Access(
        plain_http=frozenset({host(registry)} if plain else ()), credentials=Credentials(folder=tmp_path / "secrets")
    )
    allowed = Limits(**{**{name: getattr(LIMITS, name) for name in LIMITS.__slots__}, **limits})
    entry = Entry(name="m", version="1", digest=wanted, sources=tuple(sources) or (f"oci://{host(registry)}/models/m",))
    return fetch(
        entry, store=Store(tmp_path / "store"), limits=allowed, cancelled=bool, shunned={}, access=access,
        sleep=lambda _s: None,
    )  # fmt: skip


def refused(tmp_path, registry, **options) -> Refusal:
    with pytest.raises(Refusal) as caught:
        get(tmp_path, registry, **options)
    assert not (tmp_path / "store" / "releases").exists()
    return caught.value


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_artifact_becomes_a_folder_of_links(tmp_path, registry):
    fetched = get(tmp_path, registry)
    assert contents(fetched.path) == FILES
    assert fetched.path == tmp_path / "store" / "releases" / "sha256" / BUILT.digest.removeprefix("sha256:")
    blobs = tmp_path / "store" / "blobs" / "sha256"
    assert fetched.path.joinpath("model.onnx").samefile(blobs / digest(FILES["model.onnx"]).removeprefix("sha256:"))
    assert len(list(blobs.iterdir())) == 2, "the same bytes are there once"
    assert fetched.received == len(BUILT.manifest) + len(FILES["model.onnx"]) + len(FILES["weights/w.bin"])
    assert registry.headers[0]["accept"] == MEDIA_TYPE
    assert len(registry.requests) == 3
    registry.requests.clear()
    assert get(tmp_path, registry).received == 0 and not registry.requests


def test_what_another_version_brought_is_not_fetched_again(tmp_path, registry):
    get(tmp_path, registry)
    other = made({**FILES, "model.onnx": b"other"})
    registry.files[f"/v2/models/m/manifests/{other.digest}"] = other.manifest
    registry.files[f"/v2/models/m/blobs/{digest(b'other')}"] = b"other"
    registry.requests.clear()
    get(tmp_path, registry, wanted=other.digest)
    assert [path.rpartition("/")[2] for path in registry.requests] == [other.digest, digest(b"other")]


def test_without_network_nothing_is_asked_if_all_is_there(tmp_path, registry):
    """The folder alone is missing: a kill came before it."""
    path = get(tmp_path, registry).path
    path.rename(tmp_path / "gone")
    registry.requests.clear()
    assert contents(get(tmp_path, registry).path) == FILES and not registry.requests


def test_only_the_damaged_file_is_fetched_again(tmp_path, registry):
    path = get(tmp_path, registry).path / "weights" / "w.bin"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    registry.requests.clear()
    fetched = get(tmp_path, registry)
    assert contents(fetched.path) == FILES
    assert [path.rpartition("/")[2] for path in registry.requests] == [digest(FILES["weights/w.bin"])]


def test_a_folder_that_was_meddled_with_is_made_anew(tmp_path, registry):
    path = get(tmp_path, registry).path
    path.joinpath("model.onnx").unlink()
    path.joinpath("model.onnx").write_bytes(b"not the blob")
    path.joinpath("extra").write_bytes(b"nobody asked")
    registry.requests.clear()
    assert contents(get(tmp_path, registry).path) == FILES and not registry.requests


def test_the_next_source_goes_on_where_the_first_failed(tmp_path, registry):
    with serving() as first:
        first.files = dict(list(registry.files.items())[:2])
        sources = (f"oci://{host(first)}/models/m", f"oci://{host(registry)}/models/m")
        access = Access(plain_http=frozenset({host(first), host(registry)}))
        entry = Entry(name="m", version="1", digest=BUILT.digest, sources=sources)
        fetched = fetch(
            entry, store=Store(tmp_path / "store"), limits=LIMITS, cancelled=bool, shunned={}, access=access
        )
        assert contents(fetched.path) == FILES and fetched.source == sources[1]
        assert len(registry.requests) == 1


def tokens(registry, *, user=None, issuer=None, valid="t0ken"):
    """Makes the registry ask for a bearer token, and `issuer` (itself, if none) give it out, to `user` if one is named.
    Answers the list of the token server's requests."""
    issuer = issuer or registry
    given = []

    def wrap(path, content):
        def answer(_target, headers, _body):
            if headers.get("authorization") != f"Bearer {valid}":
                fields = f'realm="{issuer.url("/token")}",service="models here",scope="repository:models/m:pull"'
                return 401, {"WWW-Authenticate": f"Bearer {fields}"}, b""
            return 200, {}, content

        registry.answers[path] = answer

    def token(target, headers, body):
        given.append((urllib.parse.parse_qs(target.partition("?")[2] or body.decode()), headers.get("authorization")))
        if user is not None and headers.get("authorization") != basic(user):
            return 401, {}, b""
        return 200, {}, json.dumps({"token": valid}).encode()

    for path, content in registry.files.items():
        wrap(path, content)
    issuer.answers["/token"] = token
    return given


def basic(user: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:pw'.encode()).decode()}"


def test_a_token_is_fetched_once_for_all(tmp_path, registry):
    given = tokens(registry)
    get(tmp_path, registry)
    assert given == [({"service": ["models here"], "scope": ["repository:models/m:pull"]}, None)]
    assert len(registry.requests) == 5, "one challenge, one token, three files"


def test_a_token_for_a_login(tmp_path, registry):
    with serving() as issuer:
        given = tokens(registry, user="reader", issuer=issuer)
        get(tmp_path, registry, logins={host(registry): {"username": "reader", "password": "pw"}})
        assert [authorization for _asked, authorization in given] == [basic("reader")]
    assert basic("reader") not in [headers.get("authorization") for headers in registry.headers]


def test_a_token_for_an_identity_token(tmp_path, registry):
    given = tokens(registry)
    get(tmp_path, registry, logins={host(registry): {"auth": "", "identitytoken": "id-1"}})
    ((asked, authorization),) = given
    assert authorization is None and asked["refresh_token"] == ["id-1"] and asked["grant_type"] == ["refresh_token"]


def test_a_registry_token_is_shown_as_it_is(tmp_path, registry):
    given = tokens(registry, valid="r3g")
    get(tmp_path, registry, logins={host(registry): {"registrytoken": "r3g"}})
    assert given == []


def test_a_token_that_ran_out_is_replaced(tmp_path, registry):
    given = tokens(registry, valid="first")
    blob = f"/v2/models/m/blobs/{digest(FILES['weights/w.bin'])}"
    manifest = f"/v2/models/m/manifests/{BUILT.digest}"
    before = registry.answers[manifest]

    def then_expire(*request):
        answer = before(*request)
        if answer[0] == 200:
            given.append("expired")
            tokens(registry, valid="second")
            registry.answers[manifest] = then_expire
        return answer

    registry.answers[manifest] = then_expire
    assert contents(get(tmp_path, registry).path) == FILES
    assert registry.headers[-1]["authorization"] == "Bearer second" and registry.requests[-1] == blob


def test_basic_authentication(tmp_path, registry):
    def wrap(path, content):
        def answer(_target, headers, _body):
            if headers.get("authorization") != basic("reader"):
                return 401, {"WWW-Authenticate": 'Basic realm="models"'}, b""
            return 200, {}, content

        registry.answers[path] = answer

    for path, content in registry.files.items():
        wrap(path, content)
    assert refused(tmp_path, registry).reason == "Unauthorized"
    assert refused(tmp_path, registry, logins={"elsewhere": {"username": "reader", "password": "pw"}}).reason == (
        "Unauthorized"
    )
    assert all("authorization" not in headers for headers in registry.headers)
    get(tmp_path, registry, logins={host(registry): {"username": "reader", "password": "pw"}})


def test_a_wrong_login_ends_soon(tmp_path, registry):
    given = tokens(registry, user="reader")
    refusal = refused(tmp_path, registry, logins={host(registry): {"username": "x", "password": "s3cret"}})
    assert refusal.reason == "Unauthorized" and not refusal.permanent and len(given) == 1
    assert "s3cret" not in repr(refusal)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb: c"}'])
def test_a_token_server_that_talks_rubbish(tmp_path, registry, body):
    tokens(registry)
    registry.answers["/token"] = lambda *_: (200, {}, body)
    assert refused(tmp_path, registry).reason == "Unauthorized"


def test_tls_unless_it_was_named(tmp_path, registry):
    refusal = refused(tmp_path, registry, plain=False)
    assert refusal.reason == "Unreachable" and not registry.requests


def test_blobs_may_be_elsewhere_and_no_token_goes_there(tmp_path, registry):
    tokens(registry)
    with serving() as storage:
        for content in FILES.values():
            path = f"/v2/models/m/blobs/{digest(content)}"
            storage.files[f"/{digest(content)}"] = content
            registry.answers.pop(path, None)
            registry.redirects[path] = storage.url(f"/{digest(content)}?X-Signature=abc")
            registry.files.pop(path, None)
        assert contents(get(tmp_path, registry).path) == FILES
        assert len(storage.headers) == 2 and all("authorization" not in one for one in storage.headers)


@pytest.mark.parametrize("login", [{"username": "reader", "password": "pw"}, {"auth": "", "identitytoken": "id-1"}])
@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_where_a_blob_is_sent_to_may_not_ask_for_the_login(tmp_path, registry, login, scheme):
    """A challenge names the token server, so only the registry's own counts."""
    with serving() as storage:
        asked = []
        storage.answers["/token"] = lambda *request: asked.append(request) or (200, {}, b'{"token": "t"}')
        challenge = f'{scheme} realm="{storage.url("/token")}",service="x"'
        storage.answers["/blob"] = lambda *_: (401, {"WWW-Authenticate": challenge}, b"")
        for content in FILES.values():
            path = f"/v2/models/m/blobs/{digest(content)}"
            registry.redirects[path] = storage.url("/blob")
            registry.files.pop(path, None)
        refusal = refused(tmp_path, registry, logins={host(registry): login})
        assert refusal.reason == "Unauthorized" and not asked
        assert all("authorization" not in one for one in (*storage.headers, *registry.headers))


def test_another_manifest_than_the_digest_says(tmp_path, registry):
    registry.files[f"/v2/models/m/manifests/{BUILT.digest}"] = made({"model.onnx": b"other"}).manifest
    refusal = refused(tmp_path, registry)
    assert (refusal.step, refusal.reason, refusal.permanent) == ("Verify", "DigestMismatch", False)


@pytest.mark.parametrize("content", [b"short", b"x" * 7000, b"x" * 7001])
def test_other_bytes_than_the_manifest_says(tmp_path, registry, content):
    registry.files[f"/v2/models/m/blobs/{digest(FILES['weights/w.bin'])}"] = content
    assert refused(tmp_path, registry).reason == "DigestMismatch"
    assert not list((tmp_path / "store" / "partial").iterdir())


def test_a_blob_or_manifest_that_is_not_there(tmp_path, registry):
    gone = f"/v2/models/m/blobs/{digest(FILES['weights/w.bin'])}"
    content = registry.files.pop(gone)
    assert refused(tmp_path, registry).reason == "NotFound"
    registry.files[gone] = content
    get(tmp_path, registry)
    (tmp_path / "x").mkdir()
    assert refused(tmp_path / "x", registry, wanted=digest(b"none")).reason == "NotFound"


def test_no_model_is_a_refusal_for_good(tmp_path, registry):
    image = json.dumps(
        {"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json"}}
    ).encode()
    registry.files[f"/v2/models/m/manifests/{digest(image)}"] = image
    refusal = refused(tmp_path, registry, wanted=digest(image))
    assert refusal.reason == "UnsupportedArtifact" and refusal.permanent


def test_larger_than_allowed(tmp_path, registry):
    refusal = refused(tmp_path, registry, max_bytes=11_999)
    assert refusal.reason == "TooLarge" and refusal.permanent


@pytest.mark.parametrize(
    "source",
    ["oci://r", "oci://r/", "oci://r/UPPER", "oci://r/a/../b", "oci://u:p@r/m", "oci://r/m@sha256:ab", "oci://r/m?x"],
)
def test_no_reference(tmp_path, registry, source):
    refusal = refused(tmp_path, registry, sources=(source,))
    assert refusal.reason == "UnsupportedSource" and refusal.permanent


def test_a_reference_with_a_tag_or_the_digest(tmp_path, registry):
    """A tag says nothing that counts; the digest has to be the entry's."""
    for number, suffix in enumerate((":1.4.0", f"@{BUILT.digest}", f":1.4.0@{BUILT.digest}")):
        folder = tmp_path / str(number)
        folder.mkdir()
        get(folder, registry, sources=(f"oci://{host(registry)}/models/m{suffix}",))
    refusal = refused(tmp_path, registry, sources=(f"oci://{host(registry)}/models/m@{digest(b'other')}",))
    assert refusal.reason == "UnsupportedSource"


@pytest.mark.parametrize("challenge", ["a" * 4_000_000, "a " * 2_000_000, 'A a="", ' * 300_000])
def test_a_challenge_of_any_length_is_soon_read(challenge):
    """Of these the regular expression took hours, and nothing else of the process ran."""
    repository = oci.Repository("oci://r/m", digest=None, client=Client(timeout=1.0), access=Access())
    assert repository._answer(challenge) is None
