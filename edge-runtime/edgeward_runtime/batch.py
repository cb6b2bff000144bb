"""Several calls of one model version run as one: their rows are put together, and each gets its own rows back.

Whether a version may do so is found before it serves (batch_check.py): `model.batch_rows` is 1 where it may not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeward_runtime.preprocess import record

if TYPE_CHECKING:
    from edgeward_runtime.call import Call


class Unsplit(Exception):
    """The outputs do not have the rows of the inputs, so nobody knows whose they are."""


def group(call: Call) -> Hashable:
    """Calls with the same group may run together: the same version, the same dimensions after the first. None: alone.
    Datatypes need no look, they are the version's. Records that are still to be prepared wait among themselves."""
    model = call.model
    if record.carried(call):
        return model, record.carried
    if model.batch_rows <= call.rows or call.rows < 1:
        return None
    rows = call.rows
    for tensor in call.feeds.values():
        if tensor.shape[0] != rows:
            return None
    if model.batch_fixed:
        return model
    feeds = call.feeds
    return model, tuple([feeds[name].shape[1:] for name in model.inputs])


def most(call: Call) -> int:
    """Rows that may be taken together with this call's."""
    return record.together(call.model) if record.carried(call) else call.model.batch_rows


def run(calls: Sequence[Call]) -> None:
    """Sets the tensors of all calls, which have one group. What the run raises, and Unsplit, concern all of them:
    each has to be tried alone then. The tensors are views of one array, which lives as long as any of them."""
    model = calls[0].model
    names = calls[0].names
    alike = all(call.names == names for call in calls)
    if not alike:
        wanted = {name for call in calls for name in call.names}
        names = [name for name in model.outputs if name in wanted]
    feeds = {name: np.concatenate([call.feeds[name] for call in calls]) for name in model.inputs}
    outputs = model.run(names, feeds)
    rows = sum([call.rows for call in calls])
    if any(not output.shape or output.shape[0] != rows for output in outputs):
        raise Unsplit(f"{rows} rows went in, {[output.shape for output in outputs]} came out")
    place = {name: index for index, name in enumerate(names)}
    start = 0
    for call in calls:
        stop = start + call.rows
        # The first dimension's slices of a C-ordered array are C-ordered: nothing is copied on the way out either.
        call.tensors = [outputs[place[name]][start:stop] for name in call.names]
        start = stop
