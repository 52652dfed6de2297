"""What forward() writes to the model: it leaks nowhere, and where it matters it is refused."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import capture, transform
from embedl_deploy.errors import CaptureError
from tests.helpers import assert_close, net

METHODS = ("trace", "export")


class Notes:
    """A plain object that a model keeps."""

    last: Any = None


class Writer(nn.Module):
    """Writes to itself as models do."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.mean: Any = torch.full((16,), 0.5)
        self.register_buffer("shift", torch.full((16,), 0.25))
        self.linear = nn.Linear(16, 16)
        self.calls = 0
        self.seen: list[Any] = []
        self.tables: dict[Any, Any] = {}
        self.notes = Notes()
        self.hidden: Any = None
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def assigned(m: Any, x: Tensor) -> Tensor:
    m.mean = m.mean.type_as(x)
    return m.linear(x - m.mean)


def assigned_buffer(m: Any, x: Tensor) -> Tensor:
    m.shift = m.shift.to(x.dtype)
    return m.linear(x + m.shift)


def counted(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.linear(x)


def listed(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    m.seen.append(y)
    return y.relu()


def cached(m: Any, x: Tensor) -> Tensor:
    """As rotary embeddings keep their tables."""
    if "table" not in m.tables:
        m.tables["table"] = torch.arange(x.shape[1], device=x.device).float().cos()
    return m.linear(x) * m.tables["table"]


def in_an_object(m: Any, x: Tensor) -> Tensor:
    m.notes.last = m.linear(x)
    return m.notes.last * 2.0


def in_a_child(m: Any, x: Tensor) -> Tensor:
    m.linear.last = m.linear(x)
    return m.linear.last.sigmoid()


HARMLESS = (assigned, assigned_buffer, counted, listed, cached, in_an_object, in_a_child)


def held(model: nn.Module) -> list[Any]:
    return [
        model.mean,
        model.shift,
        model.calls,
        list(model.seen),  # type: ignore[arg-type]
        dict(model.tables),  # type: ignore[arg-type]
        dict(vars(model.notes)),
        model.hidden,
        "last" in vars(model.linear),
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("forward", HARMLESS)
def test_what_is_written_leaks_nowhere(forward: Callable[..., Any], method: Any) -> None:
    model, example = Writer(forward).eval(), torch.randn(3, 16)
    before = held(model)
    result = transform(model, (example,), method=method, copy=False)
    assert all(one is two or one == two for one, two in zip(held(model), before, strict=True))
    other = torch.randn(3, 16)
    computed = result.model(other)
    assert isinstance(computed, Tensor)
    assert_close(computed, copy.deepcopy(model)(other))


def used_count(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.linear(x) * m.calls


def used_list(m: Any, x: Tensor) -> Tensor:
    m.seen.append(x)
    return m.linear(sum(m.seen))


def recurrent(m: Any, x: Tensor) -> Tensor:
    m.hidden = x if m.hidden is None else m.hidden * 0.5 + x
    return m.linear(m.hidden)


def of_the_first_input(m: Any, x: Tensor) -> Tensor:
    if "scale" not in m.tables:
        m.tables["scale"] = x.mean()
    return m.linear(x) * m.tables["scale"]


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("forward", [used_count, used_list, recurrent, of_the_first_input])
def test_what_changes_the_next_call_is_refused(forward: Callable[..., Any], method: Any) -> None:
    model = Writer(forward).eval()
    with pytest.raises(CaptureError, match="a second call computes something else"):
        capture(model, (torch.randn(3, 16),), method=method)
    assert (model.calls, model.seen, model.tables, model.hidden) == (0, [], {}, None)


def in_a_dictionary(m: Any, x: Tensor) -> Any:
    return m.tables.setdefault("scale", x.mean())


def of_an_object(m: Any, x: Tensor) -> Any:
    m.notes.last = x.mean() if m.notes.last is None else m.notes.last
    return m.notes.last


def of_a_child(m: Any, x: Tensor) -> Any:
    if not hasattr(m.linear, "scale"):
        m.linear.scale = x.mean()
    return m.linear.scale


@pytest.mark.parametrize("method", ["export", "auto"])
@pytest.mark.parametrize("kept", [in_a_dictionary, of_an_object, of_a_child])
def test_an_export_that_fails_leaves_nothing_to_the_next(kept: Any, method: Any) -> None:
    """It is tried with two rows first, which raises after the write; one row then computes it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        scale = kept(m, x)
        if x.shape[0] != 1:
            raise ValueError(x.shape)
        return m.linear(x) * scale

    with pytest.raises(CaptureError, match="a second call computes something else"):
        capture(Writer(forward).eval(), (torch.randn(1, 16),), method=method)


@pytest.mark.parametrize("forward", [assigned, cached, used_count])
def test_without_inputs_nothing_shows_what_the_next_call_computes(
    forward: Callable[..., Any],
) -> None:
    with pytest.raises(CaptureError, match=r"writes to '\w+.*'; give example inputs"):
        capture(Writer(forward).eval())


def filled(m: Any, x: Tensor) -> Tensor:
    m.mean.fill_(1.0)
    return m.linear(x - m.mean)


def added(m: Any, x: Tensor) -> Tensor:
    m.mean.add_(1.0)
    return m.linear(x) + m.mean


def shifted(m: Any, x: Tensor) -> Tensor:
    return m.linear(x) + m.shift.add_(1.0)


@pytest.mark.parametrize("forward", [filled, added, shifted])
def test_a_write_in_place_is_refused_and_changes_nothing(forward: Callable[..., Any]) -> None:
    model = Writer(forward).eval()
    with pytest.raises(CaptureError, match="writes to"):
        capture(model, (torch.randn(3, 16),), method="trace")
    assert torch.equal(model.get_buffer("shift"), torch.full((16,), 0.25))
    assert torch.equal(model.mean, torch.full((16,), 0.5))


# --- random numbers -----------------------------------------------------------------------------

DRAWS: dict[str, Callable[..., Any]] = {
    "rand": lambda m, x: m.linear(x + torch.rand(16)),
    "normal_": lambda m, x: m.linear(x + torch.empty(16).normal_()),
    "randperm": lambda m, x: m.linear(x)[:, torch.randperm(16)],
    "dropout of a constant": lambda m, x: m.linear(x + F.dropout(torch.ones(16), training=True)),
    "random": lambda m, x: m.linear(x * random.random()),  # noqa: S311
    "numpy": lambda m, x: m.linear(x * float(np.random.rand())),  # noqa: NPY002 - what models call
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_no_constants(name: str) -> None:
    model, x = net(DRAWS[name], linear=nn.Linear(16, 16)), torch.randn(2, 16)
    torch.manual_seed(1)
    with pytest.raises(CaptureError, match="draws random numbers"):
        capture(model, (x,), method="trace")
    drawn = torch.rand(16)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(16)), "the capture draws nothing"
    if name in {"random", "numpy"}:
        with pytest.raises(CaptureError, match=r"draws random numbers with (random|numpy)"):
            capture(model, (x,))
        return
    graph = capture(model, (x,))
    assert not torch.equal(graph(x), graph(x))


def test_what_draws_in_training_alone_is_captured_as_ever() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.linear(x + torch.rand(16)) if m.training else m.linear(x)

    model, x = net(forward, linear=nn.Linear(16, 16)).eval(), torch.randn(2, 16)
    assert torch.equal(capture(model, method="trace")(x), model(x))
