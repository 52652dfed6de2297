"""What all tests share: one torch thread, a fixed seed, torchvision that imports, marks."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from embedl_deploy.cli.torchvision_ops import import_torchvision
from tests.quick import is_quick
from tests.registry import read_operators_once

# Two workers share two cores, so the time of one example says nothing.
settings.register_profile("shared-machine", deadline=None, print_blob=True)
settings.load_profile("shared-machine")

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # a process that starts workers runs no test
        import_torchvision()
        read_operators_once()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast subset does not import the files that it leaves out, which takes as long as it."""
    left = collection_path.match("test_*.py") and not is_quick(collection_path)
    return True if left and config.option.markexpr == "not slow" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not is_quick(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Let the collector see what tests leave, not all of torch, which takes an eighth longer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """A level that a test leaves would decide what other tests of its worker hear."""
    yield
    logger = logging.getLogger("embedl_deploy")
    left = logger.level
    logger.setLevel(logging.NOTSET)
    assert left == logging.NOTSET
