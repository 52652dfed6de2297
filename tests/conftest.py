"""What all tests share: one torch thread, a fixed seed, and torchvision that imports."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from embedl_deploy.cli.torchvision_ops import import_torchvision

# Two workers share two cores, so the time of one example says nothing.
settings.register_profile("shared-machine", deadline=None, print_blob=True)
settings.load_profile("shared-machine")

torch.set_num_threads(1)
import_torchvision()


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
