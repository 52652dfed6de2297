"""Random numbers that a model's code draws while it is captured: a graph would have them fixed."""

import pickle
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from embedl_deploy.errors import CaptureError


@contextmanager
def no_chance() -> Iterator[None]:
    """Refuse what is run inside where it draws random numbers; they are drawn anew afterwards.

    Raises:
        CaptureError: It draws from a generator of torch, Python or NumPy.
    """
    chance, python = torch.get_rng_state(), random.getstate()
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    legacy = numpy and numpy.get_state()
    yield
    drawn = {
        "torch": not torch.equal(chance, torch.get_rng_state()),
        "random": python != random.getstate(),
        "numpy.random": pickle.dumps(legacy) != pickle.dumps(numpy and numpy.get_state()),
    }
    if not any(drawn.values()):
        return
    torch.set_rng_state(chance)
    random.setstate(python)
    if numpy:
        numpy.set_state(legacy)
    by = next(name for name, one in drawn.items() if one)
    raise CaptureError(
        f"forward() draws random numbers with {by}, which the graph would hold as constants; draw "
        "them outside and pass them as an input, or draw them in training mode alone"
    )
