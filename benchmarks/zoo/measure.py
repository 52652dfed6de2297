"""One model through `transform`, and everything that is to be known of it."""

import logging
import time
from collections import Counter

import torch

from benchmarks.zoo import catalog
from benchmarks.zoo.arithmetic import arithmetic
from benchmarks.zoo.entry import Built, Entry, Inputs
from benchmarks.zoo.files import judged
from benchmarks.zoo.layers import calls, ledger
from benchmarks.zoo.outputs import converted, difference, run, tensors, weakness
from benchmarks.zoo.record import RELATIVE, File, Record
from benchmarks.zoo.warmth import warm
from embedl_deploy import Result, transform
from embedl_deploy.graph.capturing import Method

_SEED = 0


def measure(entry: Entry, method: Method, record: Record) -> None:
    """Fill in `record` as far as the run comes.

    Raises:
        Exception: Whatever stops it.
    """
    torch.manual_seed(_SEED)
    built = catalog.build(entry)
    record.parameters = sum(one.numel() for one in built.model.parameters())
    warm(built)
    inputs = built.draw(1)
    record.size = _size(inputs)
    want = run(built.model, inputs)
    record.weak = weakness(want, run(built.model, built.draw(1)))
    called = calls(built.model, built.draw(1))
    result = _transformed(built, inputs, method, record)
    _describe(built, result, called, record)
    record.difference = difference(want, run(result.model, inputs))
    _count(result, inputs, record)
    if entry.source in catalog.WITH_FILES:
        record.file = _file(built, result, inputs)
    if record.difference > RELATIVE:
        record.difference64 = _in_float64(built, inputs, method)


def _size(inputs: Inputs) -> str:
    return ", ".join("×".join(map(str, one.shape)) for one in tensors(inputs))


def _transformed(built: Built, inputs: Inputs, method: Method, record: Record) -> Result:
    """The result shares the model's memory, which tells where each parameter went."""
    told = _Told()
    logger = logging.getLogger("embedl_deploy.graph.capturing")
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    start = time.process_time()
    result = transform(built.model, *inputs, method=method, copy=False)
    record.seconds = time.process_time() - start
    exported = method == "export" or any("torch.export" in text for text in told.texts)
    record.way = "export" if exported else "trace"
    return result


class _Told(logging.Handler):
    """What a logger was told: capture says there when it falls back to `torch.export`."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _describe(built: Built, result: Result, called: Counter[str], record: Record) -> None:
    record.nodes = len(result.model.graph.nodes)
    record.fused = dict(result.fused)
    record.left = dict(Counter(one.kind for one in result.unfused))
    record.library_coverage = None if result.coverage is None else result.coverage.share
    found = ledger(built.model, called, result.model)
    record.used = dict(found.used)
    record.lost, record.twice, record.functional = found.lost, found.twice, found.functional


def _count(result: Result, inputs: Inputs, record: Record) -> None:
    result.model.requires_grad_(False)  # torch's counter hooks onto parameters that enter a module
    counted = arithmetic(result, inputs)
    record.coverage, record.attends = counted.share, counted.attends
    record.rest = [(one.path, one.kind, one.share, one.reason) for one in counted.rest]


def _file(built: Built, result: Result, inputs: Inputs) -> File:
    try:
        return judged(built, result, inputs)
    except Exception as error:  # noqa: BLE001 - whatever stops it is the result
        return File(error=f"{type(error).__name__}: {error}")


def _in_float64(built: Built, inputs: Inputs, method: Method) -> float:
    """The difference without the rounding of float32."""
    model = built.model.double()
    args, kwargs = converted(inputs, torch.float64)
    want = run(model, (args, kwargs))
    result = transform(model, args, kwargs, method=method, copy=False)
    return difference(want, run(result.model, (args, kwargs)))
