"""The nodes of a fleet as columns of numbers, one row a node, so that a formula looks at all of them at once.

A formula is written once, for a float or for a column: it takes the three operations that differ between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Number = Any
"""a float, or a column of floats; what goes in comes out"""
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
"""which nodes, as indices of Ledger.states"""


class Ops(Protocol):
    """What is spelled differently for a float and for a column."""

    def minimum(self, one: Number, other: Number) -> Number: ...

    def maximum(self, one: Number, other: Number) -> Number: ...

    def where(self, holds: Number, then: Number, otherwise: Number) -> Number: ...


class _One:
    @staticmethod
    def minimum(one: Number, other: Number) -> Number:
        return one if one <= other else other

    @staticmethod
    def maximum(one: Number, other: Number) -> Number:
        return one if one >= other else other

    @staticmethod
    def where(holds: Number, then: Number, otherwise: Number) -> Number:
        return then if holds else otherwise


class _Many:
    @staticmethod
    def minimum(one: Number, other: Number) -> Number:
        return np.minimum(one, other)

    @staticmethod
    def maximum(one: Number, other: Number) -> Number:
        return np.maximum(one, other)

    @staticmethod
    def where(holds: Number, then: Number, otherwise: Number) -> Number:
        return np.where(holds, then, otherwise)


ONE: Ops = _One()
MANY: Ops = _Many()
TINY = 1e-12
"""keeps a division that `where` throws away from failing"""


class Columns(NamedTuple):
    """cpu in millicores, memory in bytes. The rows follow Ledger.states; place and withdraw keep them true."""

    allocatable_cpu: Floats
    allocatable_memory: Floats
    allocatable_pods: Floats
    allocatable_storage: Floats
    requested_cpu: Floats
    requested_memory: Floats
    requested_pods: Floats
    requested_storage: Floats
    in_flight_cpu: Floats
    in_flight_memory: Floats
    cpu: Floats
    """cores in use by the live figure, as read"""
    cpu_confidence: Floats
    memory: Floats
    memory_confidence: Floats
    speed: Floats
    site: NDArray[np.intp]
    """which of Ledger.site_list"""
    rank: NDArray[np.intp]
    pool: NDArray[np.bool_]


def floats(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)
