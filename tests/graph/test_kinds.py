"""What a model's code asks of the types of its values is answered as where it runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import capture
from tests.helpers import net, run

ASKS: dict[str, Callable[..., Any]] = {
    "isinstance": lambda m, x: m.l(x) * 2 if isinstance(m.l(x), Tensor) else x,
    "is_tensor": lambda m, x: m.l(x) * 2 if torch.is_tensor(m.l(x)) else x,
    "jit": lambda m, x: m.l(x) * 2 if torch.jit.isinstance(m.l(x), Tensor) else x,
    "of several": lambda m, x: m.l(x) * 2 if isinstance(m.l(x), (list, Tensor)) else x,
    "no list": lambda m, x: m.l(x) if isinstance(x, (list, tuple, dict)) else x * 3,
    "input": lambda m, x: m.l(x).exp() if isinstance(x, Tensor) else m.l(x[0]),
    "sum": lambda m, x: m.l(x + 1) if isinstance(x + 1, Tensor) else x,
    "recurrent": lambda m, x: m.rnn(x)[0] if isinstance(m.rnn(x), tuple) else x,
    "recurrent, no tensor": lambda m, x: x if isinstance(m.rnn(x), Tensor) else m.rnn(x)[0],
    "chunks": lambda _, x: x.chunk(2, -1)[0] if isinstance(x.chunk(2, -1), tuple) else x * 9,
    "largest": lambda _, x: x.max(1)[0] if isinstance(x.max(1), tuple) else x * 9,
    "the largest": lambda _, x: x.max() if isinstance(x.max(), Tensor) else x * 9,
    "size": lambda m, x: x if isinstance(x.size(0), Tensor) else m.l(x),
}


@pytest.mark.parametrize("asks", ASKS)
def test_the_branch_that_runs_is_captured(asks: str) -> None:
    torch.manual_seed(0)
    model = net(ASKS[asks], l=nn.Linear(4, 4), rnn=nn.GRU(4, 4)).eval()
    x = torch.randn(3, 4)
    for args in ((x,), None):
        captured = capture(model, args, method="trace")
        torch.testing.assert_close(run(captured, [x]), run(model, [x]))


def test_an_input_is_what_its_example_is() -> None:
    model = net(
        lambda m, x: m.l(x) if isinstance(x, Tensor) else m.l(x[0] + x[1]), l=nn.Linear(4, 4)
    )
    pair = (torch.randn(3, 4), torch.randn(3, 4))
    torch.testing.assert_close(run(capture(model, (pair,)), [pair]), run(model, [pair]))
