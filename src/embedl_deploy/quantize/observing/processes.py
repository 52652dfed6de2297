"""Observing in several processes at once, as under `torchrun`."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch import distributed

from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.quantize.observing.observers import Observer

Key = TypeVar("Key", bound=Hashable)


def observed_by_all(
    run: Callable[[], int], observers: Mapping[Key, Observer]
) -> tuple[int, Mapping[Key, Observer]]:
    """Run on this process's data, then give every process what all have observed.

    Without several processes it only runs. What goes wrong in one is raised in all of them, so
    that none waits forever.

    Args:
        run: Runs the model on data; returns the number of batches.
        observers: What collects while it runs, by the same keys in every process.

    Returns:
        The number of batches of all processes, and the observers, which have seen them.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return run(), observers
    failure: Exception | None = None
    count = 0
    try:
        count = run()
    except Exception as error:  # noqa: BLE001 - it is raised again below
        failure = error
    said = None if failure is None else f"{type(failure).__name__}: {failure}"
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, (said, count, {**observers}))
    if failure is not None:
        raise failure
    for rank, (other, _, _) in enumerate(everyone):
        if other is not None:
            raise CalibrationError(f"calibration failed in process {rank}: {other}")
    first, *rest = (seen for _, _, seen in everyone)
    for seen in rest:
        for key, observer in first.items():
            observer.merge(seen[key])
    return sum(batches for _, batches, _ in everyone), first


def check_alone(what: str) -> None:
    """Raise where there are other processes: each would change the model by its own data.

    Raises:
        QuantizationError: There are several.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if distributed.get_world_size() > 1:
        raise QuantizationError(
            f"{what} changes the model by the data of one process; run it in one and give the "
            "others its state dict"
        )
