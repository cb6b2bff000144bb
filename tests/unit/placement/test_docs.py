"""docs/placement.md lists the constraints and the terms as the code has them."""

import re
from dataclasses import asdict
from pathlib import Path

from edgeward.api.reasons import NodeRejection
from edgeward.placement.constraints import CHECKS, DRAIN_CHECKS, INCUMBENT_CHECKS
from edgeward.placement.settings import Weights

TEXT = (Path(__file__).parents[3] / "docs" / "placement.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table of a section."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_the_table_of_constraints_is_the_list_of_checks_in_its_order() -> None:
    assert [row[0] for row in rows("Constraints")] == [str(check.reason) for check in CHECKS]
    leaves = {check.reason for check in INCUMBENT_CHECKS + DRAIN_CHECKS}
    assert {row[0] for row in rows("Constraints") if row[2] == "leaves"} == leaves
    assert all(row[1] for row in rows("Constraints"))


def test_every_reason_of_a_node_has_a_check_and_the_same_order() -> None:
    assert [check.reason for check in CHECKS] == list(NodeRejection)


def test_the_table_of_terms_is_the_list_of_weights_with_their_defaults() -> None:
    assert {row[0]: float(row[1]) for row in rows("Score")} == asdict(Weights())
    assert [row[0] for row in rows("Score")] == list(asdict(Weights()))
