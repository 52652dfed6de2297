"""Sizes as arguments of torch's functions, where torch takes what traces for a number or not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import capture
from embedl_deploy.graph import stand_ins
from tests.helpers import assert_close


class Sized(nn.Module):
    """Asks functions of torch for what follows from sizes."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.shift = self.shift.to(x.dtype)
        rows, size = x.shape[0], x.shape[-1]
        x = torch.reshape(x, (rows, -1, size)) + torch.zeros(x.shape[1:])
        x = x * torch.arange(0, size, device=x.device) + torch.full((rows, 1, 1), size)
        x = F.adaptive_avg_pool1d(torch.roll(x, (rows,), (1,)), size) + self.shift
        return torch.cat([x, x], x.dim() - 1)


def test_a_graph_is_the_same_where_torch_takes_them_and_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = Sized().eval(), torch.randn(2, 3, 4)
    own: tuple[Any, ...] = (torch.reshape, F.adaptive_avg_pool1d, nn.Module.__setattr__)
    native = capture(model, (x,), method="trace")
    monkeypatch.setattr(stand_ins, "torch_takes_stand_ins", lambda: False)
    graph = capture(model, (x,), method="trace")
    assert graph.code == native.code
    assert (torch.reshape, F.adaptive_avg_pool1d, nn.Module.__setattr__) == own
    other = torch.randn(5, 3, 4)
    assert_close(graph(other), model(other))
