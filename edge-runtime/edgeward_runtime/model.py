"""One loaded model version: an onnxruntime session with its signature, and the steps that make it fit to serve."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeward_runtime import batch_check, bfloat16
from edgeward_runtime.agreement import Copies
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.confidence import ConfidenceError, Scores, scores_of
from edgeward_runtime.errors import Refusal
from edgeward_runtime.metrics import ModelStats
from edgeward_runtime.ort import bare_run, onnxruntime
from edgeward_runtime.preprocess.chain import Chain
from edgeward_runtime.protocol import Plans
from edgeward_runtime.route import Split, Target
from edgeward_runtime.tensors import DATATYPE_OF_ONNX, NUMPY_OF, Array, TensorSpec
from edgeward_runtime.trust import onnx_file

if TYPE_CHECKING:
    from edgeward_runtime.capture.tap import Tap

# What a dynamic dimension other than the first is set to for warm-up, in this order until one runs: token counts take
# 1, convolutions with strides want an image.
_DYNAMIC_SIZES = (1, 32, 320)
_WARM_RUNS = 3
_WARM_SIZES = 8  # sizes of batches that a new version is made warm for
# A run this short costs less in the event loop than handing it to another thread and back, and delays nobody
# noticeably. Only where all but the first dimension are fixed, so that the time of a request is known from its rows.
INLINE_NS = 100_000
_USUAL_ROWS = 32  # as many as a batch has at most
_GIVES_BACK = onnxruntime.RunOptions()
_GIVES_BACK.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")


class Model:
    """Serves while it is in the registry. `inflight` counts the requests that hold it; it is changed by the event
    loop's thread only, so that it needs no lock."""

    __slots__ = (
        "_alike",
        "_bfloat16",
        "_open",
        "_run",
        "alone_ns",
        "artifact",
        "away",
        "batch_fixed",
        "batch_off",
        "batch_rows",
        "chain",
        "copies",
        "digest",
        "inflight",
        "inline_rows",
        "inputs",
        "mirrors",
        "name",
        "outputs",
        "parameters",
        "plans",
        "row_ns",
        "scores",
        "session",
        "size",
        "split",
        "stats",
        "tap",
        "version",
    )

    def __init__(
        self,
        *,
        name: str,
        version: str,
        digest: str,
        session: onnxruntime.InferenceSession | None,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.digest = digest
        self.session = session
        self._run = None if session is None else bare_run(session)
        self.inputs = inputs
        self.outputs = outputs
        self.parameters = dict(parameters or {})
        self._bfloat16 = any(spec.datatype == "BF16" for spec in (*inputs.values(), *outputs.values()))
        specs = (*inputs.values(), *outputs.values())
        self._open = any(dim < 0 for spec in specs for dim in spec.shape)
        self._alike = all(dim >= 0 for spec in specs for dim in spec.shape[1:])
        self.scores = _scores(outputs, self.parameters)
        self.chain: Chain | None = None  # preprocessing of records, from the artifact
        self.stats = ModelStats()
        self.plans: Plans = {}  # see protocol.Plan
        self.inflight = 0
        self.batch_rows = (
            1  # rows that may run together, see batch_check.prepare; 1 = no batching, `batch_off` says why
        )
        # Whether all dimensions of the inputs but the first have one size.
        self.batch_fixed = all(dim >= 0 for spec in inputs.values() for dim in spec.shape[1:])
        self.batch_off = "NotChecked"
        self.row_ns = 0.0  # what a row takes, measured at warm-up and by each run that waited, see overload.py
        self.alone_ns = 0.0  # the same for a row that ran alone
        self.inline_rows = 0  # a request of so many rows or fewer may run in the event loop, see warm_up
        self.artifact: Artifact | None = None  # what came with the model: golden data, drift reference
        self.size = 0  # bytes of the model's files, about what its session holds
        self.away = False  # it stands in for a version that was unloaded to make room, see Engine.run
        self.split: Split | None = None  # a canary that answers a share of the requests
        self.mirrors: tuple[Target, ...] = ()  # versions that get copies of the requests
        self.tap: Tap | None = None  # how its answers are learned from, see learning.py
        self.copies = Copies()  # what came of the copies that this version got

    def stand_in(self) -> Model:
        """Takes this version's requests while it is unloaded, see Engine.run."""
        other = Model(
            name=self.name,
            version=self.version,
            digest=self.digest,
            session=None,
            inputs=self.inputs,
            outputs=self.outputs,
            parameters=self.parameters,
        )
        other.away = True
        other.stats, other.plans, other.chain, other.copies = self.stats, self.plans, self.chain, self.copies
        return other

    def again(self, parameters: Mapping[str, object]) -> Model:
        """The same session under other parameters. Refusal if they make no sense. Whichever of the two is released, the
        session lives as long as the other."""
        other = Model(
            name=self.name,
            version=self.version,
            digest=self.digest,
            session=self.session,
            inputs=self.inputs,
            outputs=self.outputs,
            parameters=parameters,
        )
        other.stats, other.plans, other.chain, other.artifact = self.stats, self.plans, self.chain, self.artifact
        other.batch_rows, other.batch_off, other.inline_rows = self.batch_rows, self.batch_off, self.inline_rows
        other.row_ns, other.alone_ns, other.size = self.row_ns, self.alone_ns, self.size
        return other

    def run(self, names: list[str] | None, feeds: dict[str, Array]) -> list[Array]:
        if self._bfloat16:
            assert self.session is not None, "released while a request held it"
            return bfloat16.run(self.session, names or list(self.outputs), feeds, self.inputs, self.outputs)
        assert self._run is not None, "released while a request held it"
        options = _GIVES_BACK if self._open and self._unusual(feeds) else None
        return self._run(names or list(self.outputs), feeds, options)  # type: ignore[no-any-return]

    def _unusual(self, feeds: dict[str, Array]) -> bool:
        """Whether a run's memory is not worth keeping for the next. The session's allocator keeps what it ever needed,
        which is right for runs that are all alike, and lets one large request take memory for ever otherwise. Measured
        with a text reader of open width: giving it back costs 3% and halves what is kept; doing without the allocator
        costs 2.7 times the CPU."""
        return not self._alike or any(len(tensor) > _USUAL_ROWS for tensor in feeds.values() if tensor.ndim)

    def release(self) -> None:
        """Frees the native memory. The object stays for its counters."""
        self.session = self._run = None

    def metadata(self) -> dict[str, object]:
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "onnx_onnxv1",
            "inputs": [spec.metadata() for spec in self.inputs.values()],
            "outputs": [spec.metadata() for spec in self.outputs.values()],
            "properties": {
                "digest": self.digest,
                "max_batch_rows": str(self.batch_rows),
                **({"batching_off": self.batch_off} if self.batch_off else {}),
            },
        }


def _scores(outputs: Mapping[str, TensorSpec], parameters: Mapping[str, object]) -> Scores | None:
    asked = parameters.get("confidence")
    try:
        return scores_of(outputs, asked if isinstance(asked, dict) else None)
    except ConfidenceError as error:
        raise Refusal(step="Load", reason="ParametersInvalid", message=f"confidence: {error}", permanent=True) from None


def load(
    path: Path,
    *,
    name: str,
    version: str,
    digest: str,
    threads: int,
    parameters: Mapping[str, object] | None = None,
    root: Path | None = None,
) -> Model:
    """Parses and optimises the file. Raises Refusal with reason Empty, NotOnnx or LoadFailed, or if the model would
    open a file outside `root`; without one, if it would open any.

    onnxruntime holds the GIL in parts of session creation, so other threads stall a little (measured: less than 8 ms for
    105 MB); that is a later answer's latency, never an error.
    """
    onnx_file.check_external(path, root=root)
    try:
        session = onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _load_refusal(error) from None
    inputs = _specs(session.get_inputs(), "input")
    outputs = _specs(session.get_outputs(), "output")
    return Model(
        name=name,
        version=version,
        digest=digest,
        session=session,
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
    )


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Block sizes remembered for each set of shapes: measured to gain nothing, and with open dimensions they pile up.
    options.enable_mem_pattern = False
    # Spinning threads burn the neighbours' CPU on a shared edge box and were measured slower there.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Errors come as exceptions; the library's own lines would break the JSON log.
    options.log_severity_level = 4
    return options


def _load_refusal(error: Exception) -> Refusal:
    text = " ".join(str(error).split())[:500]
    # A protobuf parser takes many byte strings for a message with unknown fields; such a "model" has no graph.
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text:
        return Refusal(
            step="Load", reason="OutOfMemory", message="not enough memory to load the model", permanent=False
        )
    not_onnx = type(error).__name__ == "InvalidProtobuf" or "No graph was found in the protobuf" in text
    reason = "NotOnnx" if not_onnx else "LoadFailed"
    return Refusal(step="Load", reason=reason, message=_without_path(text), permanent=True)


def _without_path(text: str) -> str:
    """onnxruntime names the blob's path in the store, which says nothing to a user and differs between nodes."""
    head, found, rest = text.partition("Load model from ")
    if not found:
        return text
    _path, failed, tail = rest.partition(" failed:")
    return f"{head}{tail}" if failed else text


def _specs(nodes: list[onnxruntime.NodeArg], kind: str) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for node in nodes:
        datatype = DATATYPE_OF_ONNX.get(node.type)
        if datatype is None:
            message = f"{kind} '{node.name}' is a {node.type}, which the Open Inference Protocol cannot carry"
            if node.type.startswith(("seq(", "map(", "optional(")):
                message += "; export the model with tensors only (skl2onnx: zipmap=False)"
            raise Refusal(step="Load", reason="LoadFailed", message=message, permanent=True)
        # A symbolic dimension comes as a string or None.
        shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape or ())
        specs[node.name] = TensorSpec(name=node.name, datatype=datatype, shape=shape)
    return specs


def warm_up(model: Model, *, clock: Callable[[], float] = time.perf_counter, batch_rows: int = 0) -> float | None:
    """Runs the model on zeros, so that the first request does not pay for allocations, and answers the fastest of the
    runs in seconds. A model with dynamic dimensions may run with none of the sizes tried; that proves nothing and
    answers None. A model whose dimensions are all fixed has to run: else Refusal WarmupFailed. Then it finds whether and
    how many rows may run together (`batch_rows`: that many, 0 = measured)."""
    fixed = all(dim >= 0 for spec in model.inputs.values() for dim in spec.shape[1:])
    error: Exception | None = None
    for size in _DYNAMIC_SIZES[:1] if fixed else _DYNAMIC_SIZES:
        feeds = {name: _zeros(spec, size) for name, spec in model.inputs.items()}
        try:
            seconds = min(_timed(model, feeds, clock) for _ in range(_WARM_RUNS))
        except Exception as failure:
            error = failure
            continue
        model.row_ns = model.alone_ns = seconds * 1e9
        if fixed:
            model.inline_rows = int(INLINE_NS / max(model.alone_ns, 1000.0))
        batch_check.prepare(model, size=size, seconds=seconds, clock=clock, rows=batch_rows)
        return seconds
    if fixed and error is not None:
        message = " ".join(str(error).split())[:500]
        raise Refusal(step="Warm", reason="WarmupFailed", message=message, permanent=True)
    return None


def warm_sizes(model: Model, rows: tuple[int, ...]) -> None:
    """Runs the model with each number of rows: the arena grows to what runs of that size take. Sizes that it does not
    take on zeros prove nothing."""
    fixed = all(dim >= 0 for spec in model.inputs.values() for dim in spec.shape[1:])
    for count in rows:
        for size in _DYNAMIC_SIZES[:1] if fixed else _DYNAMIC_SIZES:
            with contextlib.suppress(Exception):
                model.run(None, {name: _zeros(spec, size, count) for name, spec in model.inputs.items()})
                break


def _timed(model: Model, feeds: dict[str, Array], clock: Callable[[], float]) -> float:
    start = clock()
    model.run(None, feeds)
    return clock() - start


def _zeros(spec: TensorSpec, size: int, rows: int = 1) -> Array:
    shape = tuple(
        dim if dim >= 0 else (rows if index == 0 else size)
        for index, dim in zip(itertools.count(), spec.shape, strict=False)
    )
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, NUMPY_OF[spec.datatype])


def rows_in_use(live: Model | None) -> tuple[int, ...]:
    """Rows of the runs that the version which serves has made most often, for the next one to be warm for."""
    if live is None:
        return ()
    seen = sorted(live.stats.batches.items(), key=lambda item: -item[1][0])[:_WARM_SIZES]
    return tuple(sorted(rows for rows, _ in seen if rows > 1))


def signature_change(old: Model, new: Model) -> str | None:
    """What a client of `old` would trip over with `new`, or None. Clients may rely on names, types, ranks and fixed
    sizes; an input that now takes any size breaks nobody."""
    for kind, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        if before.keys() != after.keys():
            return f"{kind}s were {sorted(before)}, now {sorted(after)}"
        for name, was in before.items():
            now = after[name]
            if was.datatype != now.datatype:
                return f"{kind} '{name}' was {was.datatype}, now {now.datatype}"
            if len(was.shape) != len(now.shape) or not all(
                a == b or (b == -1 and kind == "input") for a, b in zip(was.shape, now.shape, strict=True)
            ):
                return f"{kind} '{name}' had shape {list(was.shape)}, now {list(now.shape)}"
    return None
