"""A functional dropout trains again, also in a program that torch.export leaves without writes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from tests.helpers import assert_close, net, run

DROPOUTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "dropout": lambda m, x: F.dropout(x, 0.4, m.training),
    "by name": lambda m, x: F.dropout(input=x, p=0.4, training=m.training),
    "torch": lambda m, x: torch.dropout(x, 0.4, m.training),
    "alpha": lambda m, x: F.alpha_dropout(x, 0.3, training=m.training),
    "channels": lambda m, x: F.dropout2d(x[..., None, None], 0.3, m.training).flatten(1),
    "rows": lambda m, x: F.dropout1d(x[:, None].repeat(1, 3, 1), 0.3, m.training).sum(1),
    "unbatched": lambda m, x: F.dropout1d(x, 0.0, m.training),
    "parameter": lambda m, x: x + F.dropout(m.scale, 0.4, m.training),
    "apart": lambda m, x: x - F.dropout(x, 0.4, m.training),
}


def written(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A model that writes to a part of a tensor, which torch.export turns into other operations."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = function(m, m.first(x))
        z = x.new_zeros(x.shape)
        z[:, 1:5] = y[:, 1:5]
        return m.last(z + y)

    model = net(forward, first=nn.Linear(8, 8), last=nn.Linear(8, 8))
    model.scale = nn.Parameter(torch.randn(8))
    return model


@pytest.mark.parametrize("name", DROPOUTS)
def test_it_is_dropout_in_training_and_nothing_in_inference(name: str) -> None:
    model, x = written(DROPOUTS[name]).eval(), torch.randn(4, 8)
    result = transform(model, (x,), method="export")
    assert_close(run(result.model, (x,)), run(model, (x,)))
    drawn = []
    for one in (model.train(), result.model.train()):
        torch.manual_seed(3)
        drawn.append(run(one, (x,)))
    assert_close(drawn[1], drawn[0])
    if name != "unbatched":
        assert not torch.equal(drawn[0], run(model.eval(), (x,)))


def test_what_is_captured_in_training_infers() -> None:
    model, x = written(DROPOUTS["dropout"]).train(), torch.randn(4, 8)
    result = transform(model, (x,), method="export")
    assert_close(run(result.model.eval(), (x,)), run(model.eval(), (x,)))
