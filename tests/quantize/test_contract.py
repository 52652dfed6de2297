"""Fused modules that a user wrote go through every stage, as far as they say what they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules import (
    ConvPart,
    FusedConvBNReLU,
    FusedLinear,
    FusedModule,
    Kernel,
    LinearPart,
    Part,
    ResidualKernel,
)
from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM2D,
    CONV2D,
    LINEAR,
    Pattern,
    QDQPoint,
    chain,
    fork,
    hole,
    op,
)
from embedl_deploy.quantize import (
    QuantConfig,
    TensorQuantConfig,
    adaround,
    analyze,
    calibrate,
    correct_bias,
    equalize,
    insert_qdq,
    placement,
    quantize,
    recipe_report,
    restore,
    smooth,
)
from embedl_deploy.tensorrt import TENSORRT_PATTERNS
from tests.helpers import assert_close, net, run, warm

COARSE = QuantConfig(weights=TensorQuantConfig(bits=4))


class Silent(FusedModule):
    """Says nothing of itself."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return self.linear(input) + residual


class Named(Silent):
    """Says where its weight is."""

    parts = (Part("linear"),)

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return F.linear(input, self.weight("linear.weight"), self.linear.bias) + residual


class Multiplied(Named):
    """Says how it is multiplied too, and not what comes after that."""

    parts = (LinearPart("linear"),)


class Whole(ResidualKernel):
    """Says everything."""

    layer = "linear"
    parts = (LinearPart("linear"),)
    steps: ClassVar[tuple[str, ...]] = ("residual",)


def pattern_of(kind: type[FusedModule]) -> type[Pattern]:
    """The pattern of a linear layer and an addition that builds a module of that class."""

    class LinearAddInt8Pattern(Pattern):
        tree = fork(ADD, LINEAR, hole("residual"))
        qdq_points = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

        def build(self, linear: nn.Linear) -> FusedModule:
            return kind(linear)  # type: ignore[call-arg]

    return LinearAddInt8Pattern


def transformed(kind: type[FusedModule]) -> tuple[Result, list[Tensor]]:
    """A block whose residual addition is in a module of that class, and data for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = net(
            lambda self, x: self.head(x + self.down(self.up(x).relu())),
            up=nn.Linear(8, 16),
            down=nn.Linear(16, 8),
            head=nn.Linear(8, 4),
        ).eval()
        data = [torch.randn(16, 8) for _ in range(4)]
    result = transform(source, (data[0],), patterns=(pattern_of(kind), *TENSORRT_PATTERNS))
    assert type(result.model.get_submodule("down")) is kind
    return result, data


KINDS = (Silent, Named, Multiplied, Whole)
LEFT = "do not say how"


def through(model: fx.GraphModule, data: list[Tensor], folder: Path) -> None:
    """The file computes what the model does."""
    path = export_onnx(model, (data[0],), folder / "block.onnx")
    assert verify_onnx(path, model, data).only_ties


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_goes_through_all_stages(kind: type[FusedModule], tmp_path: Path) -> None:
    result, data = transformed(kind)
    config = QuantConfig()
    model = quantize(result, data, config)
    assert placement(model).rows
    assert analyze(model, data).rows
    accurate = quantize(result, data, config, recipe="accurate")
    assert recipe_report(accurate).steps
    again = restore(result, recipe_report(accurate).config, accurate.state_dict())
    assert torch.equal(run(again, data[:1]), run(accurate, data[:1]))
    through(model, data, tmp_path)
    through(accurate, data, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_rounded_where_the_class_names_them(kind: type[FusedModule]) -> None:
    result, _ = transformed(kind)
    fused = insert_qdq(result).get_submodule("down")
    assert isinstance(fused, FusedModule)
    assert len(fused.weight_quantizers) == (kind is not Silent)


@pytest.mark.parametrize(("kind", "reason"), [(Named, LEFT), (Multiplied, ""), (Whole, "")])
def test_bias_correction_and_learned_rounding_need_a_part_that_computes(
    kind: type[FusedModule], reason: str
) -> None:
    result, data = transformed(kind)
    model = quantize(result, data, COARSE)
    (learned,) = [row for row in adaround(model, data, reference=result).rows if row.path == "down"]
    (row,) = [row for row in correct_bias(model, data, reference=result).rows if row.path == "down"]
    assert reason in row.reason
    assert bool(row.reason) == bool(reason)
    assert row.tensor == ("" if reason else "down.linear.bias")
    assert learned.reason == row.reason
    assert bool(learned.changed) == (not reason)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_pass_where_the_class_names_its_steps(kind: type[FusedModule]) -> None:
    result, data = transformed(kind)
    wanted = run(result.model, data[:1])
    with torch.no_grad():  # channels of very different ranges
        up: Any = result.model.get_submodule("up.linear")
        down: Any = result.model.get_submodule("down.linear")
        spread = torch.logspace(-2, 2, 16)
        up.weight.mul_(spread[:, None])
        up.bias.mul_(spread)
        down.weight.div_(spread)
    before = up.weight.clone()
    reports = [equalize(result.model), smooth(result.model, data)]
    assert_close(run(result.model, data[:1]), wanted)
    assert torch.equal(before, up.weight) == (kind is not Whole)
    for report in reports:
        rows = [row for row in report.rows if row.path == "down"]
        assert len(rows) == (kind is not Silent)
        assert all(("does not say" in row.reason) == (kind is not Whole) for row in rows)


def test_a_class_with_a_forward_of_its_own_says_its_steps_anew() -> None:
    class Doubled(FusedLinear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return 2 * super().forward(input)

    class Restated(Doubled):
        steps = ()

    assert [one.described for one in (FusedLinear, Doubled, Restated)] == [True, False, True]
    assert Doubled(nn.Linear(2, 2)).norm is None


def test_a_fault_of_a_part_is_not_called_one_of_the_data() -> None:
    class BrokenPart(LinearPart):
        def product(self, module: Any, given: Mapping[str, Any]) -> Tensor:
            raise RuntimeError("fault of the part")

    class Broken(Multiplied):
        parts = (BrokenPart("linear"),)

    result, data = transformed(Broken)
    model = quantize(result, data)
    with pytest.raises(RuntimeError, match="fault of the part"):
        correct_bias(model, data)
    with pytest.raises(RuntimeError, match="fault of the part"):
        adaround(model, data)


# --- a new kernel: a pattern, a module of a few lines, a case ------------------------------------


class FusedConvBNReLUAvgPool(Kernel):
    """Convolution, batch norm, activation and average pooling."""

    layer = "conv"
    parts = (ConvPart("conv"),)
    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "activation")
    pooling = "pool"


class ConvBNReLUAvgPoolPattern(Pattern):
    """Convolution, batch norm, activation, average pooling."""

    tree = chain(CONV2D, BATCH_NORM2D, ACTIVATION, op("pool", nn.AvgPool2d))
    qdq_points = (QDQPoint.INPUT,)

    def build(
        self,
        conv: nn.Conv2d,
        batch_norm: nn.BatchNorm2d,
        activation: nn.Module,
        pool: nn.AvgPool2d,
    ) -> FusedConvBNReLUAvgPool:
        return FusedConvBNReLUAvgPool(conv, batch_norm, activation, pool)


def test_a_new_kernel_gets_every_stage(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        source = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )
        data = [torch.randn(4, 3, 8, 8) for _ in range(4)]
        warm(source).eval()
    result = transform(source, (data[0],), patterns=(ConvBNReLUAvgPoolPattern, *TENSORRT_PATTERNS))
    assert [type(one) for one in result.model.children()] == [
        FusedConvBNReLUAvgPool,
        FusedConvBNReLU,
    ]
    assert_close(run(result.model, data[:1]), run(source, data[:1]))
    rows = equalize(result.model).rows
    assert not [row for row in rows if row.reason and row.path != "0"]
    model = calibrate(insert_qdq(result, COARSE), data)
    assert all(row.tensor and not row.reason for row in correct_bias(model, data).rows)
    learned = adaround(model, data, reference=result).rows
    assert any(row.changed for row in learned)
    assert not any(LEFT in row.reason for row in learned)
    path = export_onnx(model, (data[0],), tmp_path / "pooled.onnx")
    assert verify_onnx(path, model, data).only_ties
    assert "BatchNormalization" not in path.read_bytes().decode("latin-1")
