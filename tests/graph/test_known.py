"""Numbers that a model reads from its own tensors, which are known whatever the inputs are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import capture
from embedl_deploy.errors import CaptureError
from tests.helpers import assert_close, assert_same_eval, kinds, net, run

METHODS = ("trace", "export")


def _written(m: Any, x: Tensor) -> Tensor:
    strides = m.stride.clone()
    strides += 1
    return x * strides[0].item()


READS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "item": lambda m, x: x * m.stride[1].item(),
    "float": lambda m, x: x * float(m.stride.sum().sqrt()),
    "int": lambda m, x: x[:, : int(m.stride[0])].reshape(-1, int(m.stride[1]) // 2),
    "bool": lambda m, x: x if m.stride[0] > m.stride[1] else -x,
    "tolist": lambda m, x: torch.cat([x * one for one in m.stride.tolist()]),
    "loop": lambda m, x: x + sum(i * 0.5 for i in range(int(m.stride.max()))),
    "full": lambda m, x: x + torch.full((x.shape[1],), m.stride[1]),
    "new_full": lambda m, x: x + x.new_full((x.shape[0], x.shape[1]), m.stride[0] / 3),
    "full_like": lambda m, x: x * torch.full_like(x, fill_value=m.stride[1]),
    "arange": lambda m, x: x + torch.arange(m.stride[1], device=x.device),
    "written": _written,
}


class Kept(nn.Module):
    """A plain attribute, as in Ultralytics' `Detect`; and code that tracing does not take."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], stride: Tensor) -> None:
        super().__init__()
        self.conv = nn.Linear(16, 16)
        self.stride = stride
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, self.conv(x))


def stored(kind: str) -> Tensor:
    strides = torch.tensor([8.0, 16.0])
    if kind == "parameter":
        return nn.Parameter(strides, requires_grad=False)
    return nn.Buffer(strides) if kind == "buffer" else strides


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["attribute", "buffer", "parameter"])
@pytest.mark.parametrize("read", READS)
def test_a_number_of_a_constant_is_known(read: str, kind: str, method: Any) -> None:
    model, example = Kept(READS[read], stored(kind)).eval(), torch.randn(3, 16)
    graph = capture(model, (example,), method=method)
    assert not {"item", "tolist"} & kinds(graph).keys()
    other = torch.randn(3, 16)
    assert_close(run(graph, (other,)), run(model, (other,)))


@pytest.mark.parametrize(
    "make", [lambda: nn.Embedding(16, 16), lambda: nn.Linear(16, 16), lambda: nn.LayerNorm(16)]
)
def test_a_module_may_be_called_with_a_constant(make: Callable[[], nn.Module]) -> None:
    layer = make()
    ids = torch.arange(16) if isinstance(layer, nn.Embedding) else torch.randn(16, 16)
    model = net(lambda m, x: m.layer(m.ids) @ x * float(m.ids[1].sum()), layer=layer).eval()
    model.register_buffer("ids", ids)
    example = torch.randn(16, 4)
    for method in METHODS:
        assert_same_eval(model, capture(model, (example,), method=method), (example,))  # type: ignore[arg-type]


def test_what_trains_is_no_number_while_it_trains() -> None:
    model = net(lambda m, x: x * float(m.scale), scale=nn.Parameter(torch.tensor(2.0)))
    with pytest.raises(CaptureError, match="float\\(\\) of 'scale'"):
        capture(model.train(), method="trace")
    example = torch.randn(3)
    assert_same_eval(model.eval(), capture(model, method="trace"), (example,))


@pytest.mark.parametrize(
    "forward",
    [
        lambda _, x: x * float(x.mean()),
        lambda m, x: x * float((m.stride + x.mean()).sum()),
        lambda m, x: x * int(m.stride.clone().add_(x.mean()).sum()),
    ],
    ids=["an input", "mixed", "written"],
)
def test_what_depends_on_an_input_is_not_known(
    forward: Callable[..., Any],
) -> None:
    with pytest.raises(CaptureError):
        capture(Kept(forward, stored("buffer")).eval(), (torch.ones(2, 16),))


def test_torch_export_does_not_see_where_known_values_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each switch of gradients would become a block of the graph, and each block takes long."""

    class Roots(nn.Module):
        squares: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("squares", torch.arange(4.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.squares.sqrt()

    seen: list[Any] = []
    record = torch.fx.Graph.create_node

    def spied(graph: torch.fx.Graph, op: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(target)
        return record(graph, op, target, *args, **kwargs)

    monkeypatch.setattr(torch.fx.Graph, "create_node", spied)
    capture(Roots(), (torch.ones(2, 4),), method="export")
    assert torch.ops.aten.sqrt.default in seen
    assert torch._C._set_grad_enabled not in seen
