"""A few thousand broken requests against the real server; `make bench-runtime` sends them for ten minutes."""

from __future__ import annotations

import pytest

from tests.bench.runtime_fuzz import fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_no_broken_request_crashes_the_server(seed):
    report = fuzz(seed=seed, bodies=3000)
    assert report.crashes == []
    assert report.bodies == 3000
    # Not all were broken beyond recognition, and every kind was among them.
    assert report.answers["rest 200"] > 100 and report.answers["rest 400"] > 500
    assert report.answers["grpc OK"] > 20 and report.answers["grpc INVALID_ARGUMENT"] > 200
    assert report.answers["wire 400"] > 200
