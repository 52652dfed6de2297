"""In-place operations become what they compute, or are refused; never something else."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import capture, transform
from embedl_deploy.errors import CaptureError
from tests.helpers import (
    assert_close,
    assert_same_training,
    assert_untouched,
    net,
    run,
    snapshot,
    warm,
)

SHAPE = (2, 3, 8, 8)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


def after(write: Callable[[Any], Any]) -> nn.Module:
    """Two names of one tensor, a write through one of them, and both are used."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = m.conv(x)
        z = y
        (m.write if isinstance(write, nn.Module) else write)(y)
        return z * 2, F.relu(m.conv(y))

    parts = {"write": write} if isinstance(write, nn.Module) else {}
    return usual(forward, **parts)


def usual(forward: Callable[..., Any], **parts: nn.Module) -> nn.Module:
    return net(forward, conv=conv(), relu=nn.ReLU(inplace=True), **parts)


def augmented(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    shortcut = y
    y += x
    y *= 0.5
    y -= 1
    y /= 3
    return shortcut * F.relu(y)


def power(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    kept = y
    early = F.relu(m.conv(y))
    y **= 2
    y //= 0.1
    y %= 3
    return early * kept


def sizes(m: Any, x: Tensor) -> Tensor:
    high = x.shape[2]
    low = high
    high += 2
    low //= 2
    high *= 2
    return m.conv(x).reshape(x.shape[0], 3, low, -1) * high


def relu_used_later(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = m.relu(y)
    return y + z


def chained(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.relu_().add_(1).mul_(2)
    return y - x


def own_view(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x).flatten(2)
    y += 1
    return F.relu_(y)


def seen_by_shape(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    batch, wide = y.shape[0], y.size(3)
    m.relu(y)
    return y.reshape(batch, -1, wide)


def late_view(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = y.relu_()
    seen = y.flatten(1)
    other = z.view(x.shape[0], -1)
    return seen * 2 + other


KEPT = [
    *(
        after(write)
        for write in (
            lambda y: y.relu_(),
            lambda y: F.relu(y, inplace=True),
            torch.relu_,
            lambda y: y.add_(1),
            lambda y: operator.iadd(y, 1),  # type: ignore[no-untyped-call]
            lambda y: F.selu(y, inplace=True),
            lambda y: F.selu(y, True),
            lambda y: F.hardswish(y, inplace=True),
            F.selu_,
            lambda y: y.clamp_(-0.2, 0.3),
            lambda y: torch.clamp_(y, min=0.1),
            lambda y: y.masked_fill_(y > 0, -1.0),
            lambda y: y.sigmoid_(),
            lambda y: y.exp_(),
            lambda y: F.dropout(y, 0.5, training=False, inplace=True).add_(1),
            nn.ReLU(inplace=True),
            nn.SiLU(inplace=True),
            nn.ELU(0.4, inplace=True),
            nn.Mish(inplace=True),
            nn.Dropout(0.0, inplace=True),
        )
    ),
    *map(
        usual,
        (augmented, power, sizes, relu_used_later, chained, own_view, seen_by_shape, late_view),
    ),
]


@pytest.mark.parametrize("model", KEPT)
def test_the_result_is_what_python_computes(model: nn.Module) -> None:
    model = warm(model).eval()
    before = snapshot(model)
    result = transform(model, method="trace")
    assert_untouched(model, before)
    x = torch.randn(SHAPE)
    assert_close(run(result.model, (x,)), run(model, (x.clone(),)))


@pytest.mark.parametrize("forward", [augmented, own_view, sizes])
def test_gradients_too(forward: Callable[..., Any]) -> None:
    model = warm(net(forward, conv=conv()))
    result = transform(model, method="trace", copy=False)
    assert_same_training(model, result, (torch.randn(SHAPE),))


def test_the_input_of_the_graph_is_never_written() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x += 1
        x.mul_(2)
        return m.relu(x)

    model = net(forward, relu=nn.ReLU(inplace=True))
    graph = capture(model, method="trace")
    x = torch.randn(SHAPE)
    kept = x.clone()
    got = graph(x)
    assert torch.equal(x, kept)
    assert torch.equal(got, model(kept))


# --- refused -------------------------------------------------------------------------------------


def late(view: Callable[[Tensor], Tensor], *, write_view: bool = False) -> Callable[..., Any]:
    """A view from before a write, used after it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        other = (m.view if isinstance(view, nn.Module) else view)(y)
        (other if write_view else y).add_(1)
        return (y if write_view else other).mean((-1,))

    return forward


def joined(_: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 1
    z = y.relu_()
    seen = z.view(-1)
    y.add_(1)
    return seen, y


VIEWS = (
    lambda y: y.view(2, -1),
    lambda y: y.flatten(1),
    lambda y: y[:, :1],
    lambda y: y.chunk(3, 1)[0],
    lambda y: y.permute(0, 2, 3, 1),
    lambda y: y.transpose(1, 2).unsqueeze(0)[0],
    lambda y: y.detach(),
    lambda y: y.to(torch.float32),
    lambda y: y.float(),
    lambda y: y.contiguous(),
    lambda y: torch.flatten(input=y),
    lambda y: F.dropout(y, 0.3, training=False),
    nn.Dropout(0.3),
    nn.Flatten(),
    nn.Unflatten(1, (3, 1)),
)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("write_view", [False, True])
def test_a_write_that_a_view_sees_is_refused(
    view: Callable[[Tensor], Tensor], *, write_view: bool
) -> None:
    with pytest.raises(
        CaptureError, match=r"writes to '.*', whose memory '.*' shares and uses later"
    ):
        capture(viewing(view, write_view=write_view), method="trace")


@pytest.mark.parametrize("view", [nn.Identity(), lambda y: y.mT, lambda y: y])
@pytest.mark.parametrize("write_view", [False, True])
def test_a_write_to_the_same_tensor_is_not(
    view: Callable[[Tensor], Tensor], *, write_view: bool
) -> None:
    model = viewing(view, write_view=write_view and isinstance(view, nn.Identity))
    x = torch.randn(SHAPE)
    assert_close(run(capture(model, method="trace"), (x,)), run(model, (x,)))


def viewing(view: Callable[[Tensor], Tensor], *, write_view: bool) -> nn.Module:
    parts = {"view": view} if isinstance(view, nn.Module) else {}
    model: nn.Module = net(late(view, write_view=write_view), conv=conv(), **parts)
    return model.eval()


def test_names_joined_after_they_were_viewed_are_one() -> None:
    with pytest.raises(CaptureError, match="writes to 'mul', whose memory 'view' shares"):
        capture(net(joined), method="trace")


def counts(m: Any, x: Tensor) -> Tensor:
    m.steps.add_(1)
    return x + m.steps


def counts_augmented(m: Any, x: Tensor) -> Tensor:
    m.steps += 1
    return x + m.steps


def counts_quietly(m: Any, x: Tensor) -> Tensor:
    m.steps.copy_(x.mean())
    return x


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (counts, "the model writes to its own tensor 'steps' in forward"),
        (counts_augmented, "writes to its own tensor 'steps'|cannot assign"),
        (counts_quietly, "the operation 'copy_' .* has no out-of-place form"),
        (lambda _, x: torch.add(x, 1, out=x), "the operation 'add' .* has no out-of-place form"),
        (lambda _, x: torch.add(x, 1, out=torch.empty(1)), "has no out-of-place form"),
        (lambda _, x: x.zero_(), "the operation 'zero_' .* has no out-of-place form"),
        (lambda _, x: nn.init.normal_(x), "be traced|out-of-place"),
        (lambda _, x: operator.setitem(x, 0, 1.0), "does not support item assignment"),
        (lambda _, x: x.add_(x, alpha=2).set_(x), "has no out-of-place form"),
    ],
)
def test_a_write_without_another_form_is_refused(forward: Callable[..., Any], text: str) -> None:
    model = net(forward, steps=torch.zeros(()))
    before = snapshot(model)
    for copy in (True, False):
        with pytest.raises(CaptureError, match=text):
            capture(model, method="trace", copy=copy)
        assert_untouched(model, before)


def test_an_item_assignment_in_a_given_graph_is_refused() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.mul, (x, 2))
    graph.call_function(operator.setitem, (y, 0, 1.0))
    graph.output(y)
    with pytest.raises(CaptureError, match="the operation 'setitem'"):
        capture(fx.GraphModule(nn.Module(), graph))


@fx.wrap
def add_in_place(tensor: Tensor, other: Tensor) -> None:
    """What tracing does not look into, called for what it writes alone."""
    tensor[:, :1] += other[:, :1]


@fx.wrap
def halved(sizes: list[int]) -> list[int]:
    sizes[0] //= 2
    return sizes


def test_a_wrapped_function_that_only_writes_is_kept() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        add_in_place(y, x)
        return F.relu(y)

    model = warm(net(forward, conv=conv())).eval()
    x = torch.randn(SHAPE)
    for args in (None, (x,)):
        assert_close(run(transform(model, args).model, (x,)), run(model, (x,)))


def test_a_wrapped_function_gets_a_list_that_it_may_change() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.conv(x)).flatten(halved([4, 2])[0])

    model = net(forward, conv=conv()).eval()
    x = torch.randn(SHAPE)
    assert_close(run(transform(model, (x,)).model, (x,)), run(model, (x,)))


@pytest.mark.parametrize("value", [3, -2.5, True])
def test_a_number_may_be_written_to_a_part_of_integers_and_floats(value: Any) -> None:
    """Exported, a part is filled by a constant tensor, and another part is computed."""

    def forward(_: Any, x: Tensor) -> Tensor:
        y = torch.full((x.shape[0], 4), 7, dtype=torch.long)
        z = torch.zeros(x.shape[0], 4)
        y[:, 0], z[:, 1] = value, value
        y[:, 1], z[:, 2:] = x.argmax(-1), x[:, :2]
        return y + z

    model, x = net(forward), torch.randn(2, 5)
    assert_close(run(capture(model, (x,), method="export"), (x,)), run(model, (x,)))
