"""A call that carries a record: to the model's feeds before its run, and counted after it."""

from __future__ import annotations

import logging
from time import monotonic, perf_counter_ns

import numpy as np

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError, without_values
from edgeward_runtime.model import Model
from edgeward_runtime.preprocess.chain import RECORD

log = logging.getLogger(__name__)

_IMAGE_BLOW_UP = 40  # about: float32 of the three channels of a JPEG that packs ten to one
_TABLE_BLOW_UP = 4
_SHARE_OF_NEW = 0.125  # weight of a new measurement of what preparing takes


def carried(call: Call) -> bool:
    return RECORD.name in call.feeds and call.model.chain is not None


def together(model: Model) -> int:
    """How many records are prepared for one run. Several only where that takes less than the model does with them: those
    that wait for the run, and more urgent ones that come meanwhile, must not wait for pictures that were sent later."""
    chain = model.chain
    return model.batch_rows if chain is not None and 0 < chain.prepare_ns < model.row_ns else 1


def prepare_ns(call: Call) -> float:
    """What preparing it will take, 0 for tensors."""
    chain = call.model.chain
    return chain.prepare_ns if chain is not None and RECORD.name in call.feeds else 0.0


def prepare(call: Call) -> bool:
    """In the worker's thread. False if there is nothing left to run: call.error or call.tensors are set. Raises nothing:
    the bytes are a stranger's, and the thread has others to serve."""
    chain = call.model.chain
    assert chain is not None
    began = perf_counter_ns()
    try:
        body = call.feeds[RECORD.name].tobytes()
        call.record_bytes = len(body)
        prepared = chain.prepare(body, source=call.source, now=monotonic())
        again = prepared.again
        if again is not None and again.tensors.keys() >= set(call.names):
            call.tensors = [again.tensors[name] for name in call.names]
            call.notes = {**(again.notes or {}), "near_duplicate_of": again.id}
            call.answered_by = again.answered_by
            call.feeds = {}
            return False
        if again is not None:
            prepared = chain.prepare(body, source=call.source, now=monotonic(), compare=False)
    except ProtocolError as error:
        call.error = error
        return False
    except MemoryError:
        call.error = ProtocolError(413, "there is not enough memory to prepare this record")
        return False
    except Exception as error:
        log.error("preparing a record failed", extra={"model": call.model.name, "error": without_values(error)})
        call.error = ProtocolError(500, "preparing the record failed")
        return False
    took = perf_counter_ns() - began
    chain.prepare_ns += (took - chain.prepare_ns) * _SHARE_OF_NEW if chain.prepare_ns else took
    call.feeds = prepared.feeds
    (tensor,) = prepared.feeds.values()
    call.rows = len(tensor)
    call.prepared = prepared
    if prepared.missing:
        call.notes = {"missing_channels": ",".join(prepared.missing)}
    return True


def finished(call: Call) -> None:
    """In the loop's thread, of an answered call."""
    stats = call.model.stats
    stats.records += 1
    stats.record_bytes += call.record_bytes
    prepared = call.prepared
    if prepared is None:
        stats.near_duplicates += 1
        return
    stats.prepared_bytes += sum(tensor.nbytes for tensor in call.feeds.values())
    for name in prepared.missing:
        stats.missing_channels[name] = stats.missing_channels.get(name, 0) + 1
    if prepared.look is not None and call.model.chain is not None:
        # Copies: the tensors may be views of a whole batch.
        tensors = {name: np.array(tensor) for name, tensor in zip(call.names, call.tensors, strict=True)}
        call.model.chain.answered(
            call.source,
            prepared,
            now=monotonic(),
            id=call.id,
            tensors=tensors,
            notes=call.notes,
            answered_by=call.answered_by,
        )


def memory(call: Call) -> int:
    """About how many bytes the feeds of a record will be."""
    chain = call.model.chain
    assert chain is not None
    if chain.feed_bytes:
        return chain.feed_bytes
    size = call.feeds[RECORD.name].nbytes
    return size * (_IMAGE_BLOW_UP if chain.spec.record.kind == "Image" else _TABLE_BLOW_UP)
