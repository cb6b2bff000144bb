"""Derived names: unique, within 63 characters, and valid whatever the job is called."""

import re

from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.names import derived_name

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
names = st.from_regex(LABEL, fullmatch=True)


def test_the_rule_of_the_design() -> None:
    import hashlib

    digest = hashlib.sha256(b"shop/signs/site/node").hexdigest()[:8]
    assert derived_name(namespace="shop", name="signs", site="site", node="node") == f"signs-{digest}"
    assert derived_name(namespace="shop", name="a" * 63, site="s").startswith("a" * 40 + "-")


@given(names, names, names, st.one_of(st.just(""), names))
def test_always_a_label(namespace: str, name: str, site: str, node: str) -> None:
    made = derived_name(namespace=namespace, name=name, site=site, node=node)
    assert LABEL.fullmatch(made) and len(made) <= 49


def test_what_differs_after_the_fortieth_character_still_differs() -> None:
    made = {
        derived_name(namespace="n", name="a" * 40 + tail, site=site, node=node)
        for tail in ("b", "c")
        for site in ("s", "t")
        for node in ("", "x")
    }
    assert len(made) == 8


def test_a_cut_before_a_dash_leaves_no_double_dash_end() -> None:
    assert "--" not in derived_name(namespace="n", name="a" * 39 + "-b", site="s")
