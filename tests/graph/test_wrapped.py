"""Functions that `torch.fx.wrap` hides from tracing are looked into."""

import inspect
import logging
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import capture, transform
from embedl_deploy.errors import CalibrationError, CaptureError, ExportError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.graph import capturing
from embedl_deploy.graph.wrapped import hidden
from embedl_deploy.modules import ScaledDotProductAttention
from embedl_deploy.quantize import quantize
from embedl_deploy.rewrite import Coverage, Result
from tests.helpers import (
    assert_close,
    assert_same_training,
    assert_untouched,
    net,
    run,
    snapshot,
    warm,
)


def covered(result: Result) -> Coverage:
    assert result.coverage is not None
    return result.coverage


@fx.wrap
def sides(height: int, width: int, sides: list[int]) -> list[int]:
    """Sides of windows that are no larger than the map; writes to its list."""
    for index, have in enumerate((height, width)):
        sides[index] = min(sides[index], have)
    return sides


@fx.wrap
def windows(
    x: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, window: list[int], *, dropout: float = 0.0
) -> Tensor:
    """Attention within windows; what follows from sizes is Python."""
    n, h, w, c = x.shape
    high, wide = window
    bottom, right = -h % high, -w % wide
    if bottom > 0 or right > 0:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    rows, columns = x.size(1) // high, x.size(2) // wide
    x = x.view(n, rows, high, columns, wide, c).permute(0, 1, 3, 2, 4, 5)
    x = F.linear(x.reshape(n * rows * columns, high * wide, c), qkv, bias)
    q, k, v = x.reshape(len_of(x), high * wide, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
    x = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    x = F.dropout(F.linear(x.transpose(1, 2).flatten(2), out), dropout)
    x = x.view(n, rows, columns, high, wide, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * high, columns * wide, c)[:, :h, :w]


def len_of(x: Tensor) -> Any:
    return x.shape[0] if isinstance(x, Tensor) else 1


class Windows(nn.Module):
    """The attention as a layer, with a window that may be larger than the map."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        window = sides(x.shape[1], x.shape[2], list(self.window))
        return windows(x, self.qkv.weight, self.qkv.bias, self.out.weight, window, dropout=0.0)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
def test_windows_become_layers_and_attention_for_any_batch(size: tuple[int, int]) -> None:
    model = warm(nn.Sequential(Windows((4, 3)), nn.Linear(8, 5))).eval()
    before = snapshot(model)
    x = torch.randn(2, *size, 8)
    result = transform(model, (x,), method="trace")
    assert covered(result).share == 1.0
    kinds = [type(one) for one in result.model.modules()]
    assert kinds.count(ScaledDotProductAttention) == 1
    assert dict(result.model.named_modules())["0.out.linear"] is not None
    for one in (x, torch.randn(1, *size, 8), torch.randn(9, *size, 8)):
        assert_close(run(result.model, (one,)), run(model, (one,)))
    assert_untouched(model, before)


def test_sizes_that_the_graph_does_not_hold_for_are_refused(tmp_path: Path) -> None:
    model = warm(nn.Sequential(Windows((4, 3)), nn.Linear(8, 5))).eval()
    x, other = torch.randn(2, 5, 7, 8), torch.randn(2, 8, 6, 8)
    result = transform(model, (x,), method="trace")
    said = r"the input 'input_1' is \[2, 8, 6, 8\].*for \[any, 5, 7, 8\] alone"
    with pytest.raises(CaptureError, match=said):
        result.model(other)
    with pytest.raises(CalibrationError, match=said):
        quantize(result, [x, other])
    quantized = quantize(result, [x])
    with pytest.raises(ExportError, match=said):
        export_onnx(quantized, (other,), tmp_path / "other.onnx")
    sizes = ({1: torch.export.Dim("rows", max=64)},)
    with pytest.raises(ExportError, match="fixes sizes that dynamic_shapes lets vary: 0 of 1"):
        export_onnx(quantized, (x,), tmp_path / "any.onnx", dynamic_shapes=sizes)
    for copied in (deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):  # noqa: S301 - ours
        assert_close(run(copied, (x,)), run(quantized, (x,)))
        with pytest.raises(CaptureError, match=said):
            copied(other)
    again = transform(model, (other,), method="trace")
    assert_close(run(again.model, (other,)), run(model, (other,)))


def test_the_file_of_windows_computes_what_the_model_computes(tmp_path: Path) -> None:
    model = warm(nn.Sequential(Windows((4, 3)), nn.Linear(8, 5))).eval()
    x = torch.randn(2, 5, 7, 8)
    result = transform(model, (x,))
    quantized = quantize(result, [x])
    path = export_onnx(quantized, (x,), tmp_path / "windows.onnx", precision="float16")
    assert verify_onnx(path, quantized, [(x,)]).only_ties


@fx.wrap
def two(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return F.linear(x, weight), F.linear(x, weight * 2)


@fx.wrap
def nested(x: Tensor, weight: Tensor) -> Tensor:
    one, other = two(x + 1, weight)
    return one * other


@fx.wrap
def asks(x: Tensor, weight: Tensor, scale: Any) -> Tensor:
    x = x * scale if isinstance(scale, Tensor) else x - 1
    return F.linear(x, weight) + torch.arange(len(weight))


@fx.wrap
def adds(x: Tensor, weight: Tensor) -> Tensor:
    y = F.linear(x, weight)
    y += x
    return y


def unpacks(m: Any, x: Tensor) -> Tensor:
    one, other = two(m.first(x), m.weight)
    return one / (other.abs() + 1)


@fx.wrap
def apart(x: Tensor, parts: list[int]) -> Tensor:
    """What keeps parts of a row apart, written item by item; made of sizes and a type alone."""
    place = x.new_zeros(x.shape[1])
    for number, part in enumerate(parts):
        place[part:] = number
    return (place[:, None] != place).to(x.dtype) * -100.0


@fx.wrap
def masked(x: Tensor, weight: Tensor) -> Tensor:
    mask = apart(x, [1, 3])
    bias = x.new_ones(x.shape[0], 1) + x.new_full((4,), 0.5)
    return F.linear(x, weight) @ mask.softmax(-1) + bias


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "two": unpacks,
    "nested": lambda m, x: nested(m.first(x), m.weight),
    "asks": lambda m, x: asks(x, m.weight, m.first(x)),
    "masked": lambda m, x: masked(m.first(x), m.weight),
    "adds": lambda m, x: adds(m.first(x), m.weight),
    "shared": lambda m, x: adds(adds(m.first(x), m.weight), m.weight),
}


def layers(forward: Callable[..., Any]) -> nn.Module:
    model = net(forward, first=nn.Linear(4, 4))
    model.weight = nn.Parameter(torch.randn(4, 4))
    return model.eval()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_looked_into(name: str) -> None:
    model = layers(FUNCTIONS[name])
    x = torch.randn(3, 4)
    assert not hidden(capture(model, (x,), method="trace").graph)
    result = transform(model, (x,))
    assert not [one for one in covered(result).rest if one.kind != "matmul"]
    for one in (x, torch.randn(5, 4)):
        assert_close(run(result.model, (one,)), run(model, (one,)))
    model.train()
    assert_same_training(model, transform(model, (x,), copy=False), (x,))


@fx.wrap
def writes(x: Tensor, weight: Tensor) -> Tensor:
    made = x.new_zeros(x.shape[0], 6)
    made[:, 1:5] = F.linear(x, weight)
    return made


@fx.wrap
def by_count(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if x.numel() < 40 else F.linear(x, weight) - 1


@fx.wrap
def by_batch(x: Tensor, weight: Tensor) -> Tensor:
    y = F.linear(x, weight)
    return y * 2 if x.shape[0] > 8 else y


def test_what_tracing_cannot_take_goes_through_export(caplog: pytest.LogCaptureFixture) -> None:
    model = layers(lambda m, x: F.relu(writes(m.first(x), m.weight)))
    x = torch.randn(3, 4)
    (left,) = covered(transform(model, (x,), method="trace")).rest
    assert "(torch.fx.wrap)" in left.reason
    with caplog.at_level(logging.INFO):
        result = transform(model, (x,))
    assert "torch.export is tried" in caplog.text
    assert covered(result).share == 1.0
    for one in (x, torch.randn(5, 4)):
        assert_close(run(result.model, (one,)), run(model, (one,)))


@fx.wrap
def by_rows(x: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([F.linear(x[row], weight) for row in range(len(x))])


WHOLE: dict[str, Callable[[Any, Tensor], Any]] = {
    "by_count": lambda m, x: by_count(m.first(x), m.weight),
    "by_batch": lambda m, x: by_batch(m.first(x), m.weight),
    "by_rows": lambda m, x: by_rows(m.first(x), m.weight),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_neither_way_can_take_stays_a_call(name: str) -> None:
    model = layers(WHOLE[name])
    result = transform(model, (torch.randn(3, 4),))
    assert [node.name for node in hidden(result.model.graph)] == [name]
    for one in (torch.ones(3, 4), -torch.ones(3, 4), torch.randn(12, 4)):
        assert_close(run(result.model, (one,)), run(model, (one,)))


def test_windows_of_videos_are_looked_into_one_after_the_other() -> None:
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    layers = [video.ShiftedWindowAttention3d(8, [2, 4, 4], at, 2) for at in ([0] * 3, [1, 2, 2])]
    model = warm(nn.Sequential(*layers)).eval()
    x = torch.randn(2, 4, 6, 8, 8)
    result = transform(model, (x,), method="trace")
    assert covered(result).share == 1.0
    assert not hidden(result.model.graph)
    for one in (x, torch.randn(3, 4, 6, 8, 8)):
        assert_close(run(result.model, (one,)), run(model, (one,)))


def test_a_function_that_a_pattern_names_stays_one_call() -> None:
    torchvision = pytest.importorskip("torchvision.models.swin_transformer")
    make = torchvision.ShiftedWindowAttention
    model = warm(make(8, [4, 4], [2, 2], 2)).eval()
    result = transform(model, (torch.randn(1, 8, 8, 8),))
    assert "DecomposeShiftedWindowAttentionPattern" in {one.pattern.name for one in result.matches}


@fx.wrap
def noisy(x: Tensor) -> Tensor:
    return x + torch.rand(4)


def test_a_function_that_draws_random_numbers_stays_a_call() -> None:
    model = layers(lambda m, x: F.relu(noisy(m.first(x))))
    x = torch.randn(3, 4)
    result = transform(model, (x,), method="trace")
    assert len(hidden(result.model.graph)) == 1
    torch.manual_seed(1)
    wanted = run(model, (x,))
    torch.manual_seed(1)
    assert_close(run(result.model, (x,)), wanted)


@fx.wrap
def by_width(x: Tensor) -> Tensor:
    return x / x.shape[-1] + x.size(1)


@fx.wrap
def to_eighths(x: Tensor) -> Tensor:
    return F.pad(x, (0, -x.shape[3] % 8)) if x.shape[3] % 8 else x


@pytest.mark.parametrize(
    ("forward", "stays"),
    [
        (lambda m, x: by_width(m.conv(x)).relu(), False),
        (lambda m, x: to_eighths(m.conv(x)).relu(), True),  # it decides by a size
    ],
)
def test_without_products_all_sizes_stay_values(
    forward: Callable[..., Tensor], *, stays: bool
) -> None:
    model = net(forward, conv=nn.Conv2d(3, 4, 1)).eval()
    result = transform(model, (torch.randn(2, 3, 16, 16),))
    assert bool(hidden(result.model.graph)) == stays
    for side in (16, 13):
        x = torch.randn(1, 3, side, side)
        assert_close(run(result.model, (x,)), run(model, (x,)))


@fx.wrap
def decides(x: Tensor) -> Tensor:
    x = x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
    return -x if len_of(x) > 10 else x


def test_a_call_that_stays_leaves_no_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """One would be state that a call writes, and the model would run to find out what it does."""
    monkeypatch.setattr(capturing, "check_calls_are_alike", None)
    model = net(lambda m, x: decides(m.conv(x)).relu(), conv=nn.Conv2d(3, 4, 1)).eval()
    before = {*vars(model)}
    x = torch.randn(2, 3, 16, 16)
    result = transform(model, (x,), copy=False)
    assert hidden(result.model.graph)
    assert {*vars(model)} == before
    assert_close(run(result.model, (x,)), run(model, (x,)))


ADDED = torch.zeros(2, 1, 5, 5).index_fill(3, torch.tensor([3, 4]), -1e4)
ROWS = torch.ones(5, 5).tril(1).bool()
MASKS: dict[str, tuple[Tensor, ...]] = {"none": (), "added": (ADDED,), "boolean": (ROWS,)}


@pytest.mark.parametrize("name", ["Attention", "AttentionRope"])
@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_written_attention_of_timm_with_a_mask_is_one_attention(name: str, mask: str) -> None:
    layer = getattr(pytest.importorskip("timm.layers.attention"), name)
    written: Any = warm(layer(16, num_heads=2, qkv_bias=True))
    written.fused_attn = False

    def forward(m: Any, x: Tensor, hides: Tensor | None = None) -> Any:
        return m.attn(x, attn_mask=hides, is_causal=is_causal)

    is_causal = mask == "causal"
    model = net(forward, attn=written).eval()
    args = (torch.randn(2, 5, 16), *MASKS.get(mask, ()))
    result = transform(model, args, method="trace")
    if not is_causal:  # that mask is made of the logits
        assert covered(result).share == 1.0
        assert ScaledDotProductAttention in {type(one) for one in result.model.modules()}
    for rows in (5, 7) if mask in {"none", "causal"} else (5,):
        args = (torch.randn(2, rows, 16), *MASKS.get(mask, ()))
        assert_close(run(result.model, args), run(model, args))


@fx.wrap
def until(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, : int(mask.sum())]


@fx.wrap
def scaled(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask.max().item()


@fx.wrap
def chosen(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, mask > 0]


@pytest.mark.parametrize("name", ["until", "scaled", "chosen"])
def test_a_function_that_reads_values_is_named_with_its_line(name: str) -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            read: Tensor = globals()[name](x, mask)  # as tracing finds it
            return read

    function = globals()[name]
    with pytest.raises(CaptureError) as caught:
        transform(Reading(), (torch.ones(2, 4), torch.ones(4)))
    said = str(caught.value)
    assert f"'{function.__name__}' reads values of tensors" in said
    line = inspect.getsource(function).splitlines()[-1].strip()
    assert f"test_wrapped.py:{function.__code__.co_firstlineno + 2}: {line}\n" in said
    assert "What to try: " in said
    assert "do not fit" not in said
