"""What all tests share: one torch thread, a fixed seed, torchvision that imports, marks."""

from collections.abc import Iterator

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
import_torchvision()
read_operators_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not is_quick(item.path):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
