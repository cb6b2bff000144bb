"""Object stores: addresses, and signatures held against the example that Amazon publishes."""

from __future__ import annotations

import datetime
import email.utils
import os

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import S3, Access, Credentials, Limits, fetch
from edgeward_runtime.fetch.s3 import Keys, object_url, signature
from edgeward_runtime.store import Store
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(50_000)
KEYS = Keys(access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
PUBLISHED = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=5.0, total_seconds=60.0)


def test_the_published_example():
    """ "Example: GET Object" of Amazon's page on the Authorization header: the first 10 bytes of test.txt."""
    headers = signature(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {"Range": "bytes=0-9"},
        keys=KEYS,
        region="us-east-1",
        now=PUBLISHED,
    )
    assert headers == {
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    }


@pytest.mark.parametrize(
    ("address", "endpoint", "addressing", "url"),
    [
        ("s3://models/a/m.onnx", "", "auto", "https://models.s3.eu-west-1.amazonaws.com/a/m.onnx"),
        ("s3://models/a/m.onnx", "", "path", "https://s3.eu-west-1.amazonaws.com/models/a/m.onnx"),
        ("s3://mo.dels/m.onnx", "", "auto", "https://s3.eu-west-1.amazonaws.com/mo.dels/m.onnx"),
        ("s3://models/m.onnx", "http://10.0.0.9:9000/", "auto", "http://10.0.0.9:9000/models/m.onnx"),
        ("s3://models/m.onnx", "https://store.local", "virtual", "https://models.store.local/m.onnx"),
        ("s3://models/a b/ü+%&=.onnx", "", "auto",
         "https://models.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC%2B%25%26%3D.onnx"),
    ],
)  # fmt: skip
def test_where_an_object_is(address, endpoint, addressing, url):
    assert object_url(address, endpoint=endpoint, region="eu-west-1", addressing=addressing) == url


@pytest.mark.parametrize("address", ["s3://models", "s3://models/", "s3:///m.onnx", "s3://a@b/m", "s3://models:80/m"])
def test_no_object(address):
    with pytest.raises(Refusal) as caught:
        object_url(address, endpoint="", region="r", addressing="auto")
    assert caught.value.reason == "UnsupportedSource" and caught.value.permanent


@pytest.fixture
def bucket():
    with serving() as one:
        one.files["/models/m.onnx"] = CONTENT
        one.ranges = True
        yield one


def get(tmp_path, bucket, *, credentials=None, wall=lambda: PUBLISHED.timestamp(), **settings):
    access = Access(
        s3=S3(endpoint=bucket.address if bucket else "", **settings),
        credentials=credentials or Credentials(),
        wall=wall,
    )
    entry = Entry(name="m", version="1", digest=digest(CONTENT), sources=("s3://models/m.onnx",))
    fetched = fetch(
        entry, store=Store(tmp_path / "store"), limits=LIMITS, cancelled=bool, shunned={}, access=access,
        sleep=lambda _s: None,
    )  # fmt: skip
    assert fetched.path.read_bytes() == CONTENT
    return fetched


def signed_by(bucket, at: int = -1) -> dict[str, str]:
    """What the signature has to be for the headers that came."""
    headers = bucket.headers[at]
    names = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    now = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    plain = {name: headers[name] for name in names if name != "host" and not name.startswith("x-amz-")}
    keys = Keys(
        access_key_id=KEYS.access_key_id,
        secret_access_key=KEYS.secret_access_key,
        session_token=headers.get("x-amz-security-token", ""),
    )
    return signature(f"http://{headers['host']}/models/m.onnx", plain, keys=keys, region="us-east-1", now=now)


def test_a_public_bucket(tmp_path, bucket):
    get(tmp_path, bucket)
    assert "authorization" not in bucket.headers[0] and "x-amz-date" not in bucket.headers[0]


def test_keys_of_the_settings(tmp_path, bucket):
    get(tmp_path, bucket, access_key_id=KEYS.access_key_id, secret_access_key=KEYS.secret_access_key)
    assert bucket.headers[0]["authorization"] == signed_by(bucket)["Authorization"]


def test_keys_of_a_mounted_secret(tmp_path, bucket):
    folder = tmp_path / "secrets" / "models"
    folder.mkdir(parents=True)
    values = {
        "AWS_ACCESS_KEY_ID": KEYS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": KEYS.secret_access_key,
        "AWS_SESSION_TOKEN": "session",
        "AWS_ENDPOINT_URL": bucket.address,
    }
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")
    get(tmp_path, None, credentials=Credentials(folder=folder.parent))
    assert bucket.headers[0]["x-amz-security-token"] == "session"
    assert bucket.headers[0]["authorization"] == signed_by(bucket)["Authorization"]


def test_a_range_is_signed_too(tmp_path, bucket):
    bucket.etags["/models/m.onnx"] = '"1"'
    bucket.cut_after = 20_000
    get(tmp_path, bucket, access_key_id=KEYS.access_key_id, secret_access_key=KEYS.secret_access_key)
    assert [headers.get("range") for headers in bucket.headers] == [None, "bytes=20000-", "bytes=40000-"]
    assert "SignedHeaders=host;if-range;range;" in bucket.headers[1]["authorization"]
    assert bucket.headers[1]["authorization"] == signed_by(bucket, 1)["Authorization"]


def test_a_clock_that_is_years_off_is_corrected_by_the_stores(tmp_path, bucket):
    there = datetime.datetime(2031, 7, 1, 12, tzinfo=datetime.UTC)

    def answer(_target, headers, _body):
        if headers["x-amz-date"] != "20310701T120000Z":
            dates = {"Date": email.utils.format_datetime(there, usegmt=True)}
            return 403, dates, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
        return 200, {}, CONTENT

    bucket.answers["/models/m.onnx"] = answer
    get(tmp_path, bucket, access_key_id=KEYS.access_key_id, secret_access_key=KEYS.secret_access_key)
    assert [headers["x-amz-date"] for headers in bucket.headers] == ["20130524T000000Z", "20310701T120000Z"]


def test_keys_that_are_refused(tmp_path, bucket):
    bucket.answers["/models/m.onnx"] = lambda *_: (403, {}, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(Refusal) as caught:
        get(tmp_path, bucket, access_key_id="x", secret_access_key="s3cret")
    assert caught.value.reason == "Unauthorized" and "s3cret" not in repr(caught.value)
    assert len(bucket.requests) == 1
