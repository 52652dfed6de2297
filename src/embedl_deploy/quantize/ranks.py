"""Calibration in several processes at once, as under `torchrun`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import distributed

from embedl_deploy.errors import CalibrationError
from embedl_deploy.quantize.observers import Observer
from embedl_deploy.quantize.stubs import QuantStub


def observed_by_all(run: Callable[[], int], stubs: Mapping[str, QuantStub]) -> int:
    """Run on this process's data, then give every process what all have observed.

    Without several processes it only runs. What goes wrong in one is raised in all of them, so
    that none waits forever.

    Args:
        run: Runs the model on data; returns the number of batches.
        stubs: The stubs, with observers.

    Returns:
        The number of batches of all processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return run()
    failure: Exception | None = None
    count = 0
    try:
        count = run()
    except Exception as error:  # noqa: BLE001 - it is raised again below
        failure = error
    said = None if failure is None else f"{type(failure).__name__}: {failure}"
    everyone: list[Any] = [None] * distributed.get_world_size()
    own = {path: stub.observer for path, stub in stubs.items()}
    distributed.all_gather_object(everyone, (said, count, own))
    if failure is not None:
        raise failure
    for rank, (other, _, _) in enumerate(everyone):
        if other is not None:
            raise CalibrationError(f"calibration failed in process {rank}: {other}")
    for path, stub in stubs.items():
        stub.observer = _merged(stub, [observers[path] for _, _, observers in everyone])
    return sum(batches for _, batches, _ in everyone)


def _merged(stub: QuantStub, observers: list[Observer]) -> Observer:
    merged = stub.config.observer()
    for one in observers:
        merged.merge(one)
    return merged
