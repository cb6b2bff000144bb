from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conformance.target import Target, foreign, ours


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is our own decision proves nothing about another server."""
    if foreign() is None:
        return
    here = [item for item in items if item.get_closest_marker("ours") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = here


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """All models in one server."""
    other = foreign()
    if other is not None:
        yield other
        return
    with ours(tmp_path_factory.mktemp("conformance")) as (target, _server):
        yield target
