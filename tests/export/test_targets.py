"""A made-up target goes from a model to a file that ONNX Runtime computes as simulated.

It needs patterns and a `Target`, and nothing of TensorRT.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import Lowering, Result, Target, transform
from embedl_deploy.errors import ExportError, VerificationError
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.modules import (
    FusedLinear,
    FusedScaledDotProductAttention,
    ScaledDotProductAttention,
)
from embedl_deploy.patterns import LINEAR, SCALED_DOT_PRODUCT_ATTENTION, Pattern, QDQPoint
from embedl_deploy.quantize import QuantConfig, QuantStub, TensorQuantConfig, quantize
from embedl_deploy.tensorrt import TENSORRT
from tests.export.files import File
from tests.helpers import warm


class ToyLinear(Pattern):
    """A linear layer."""

    tree = LINEAR
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(self, linear: nn.Linear) -> FusedLinear:
        return FusedLinear(linear)


class ToyAttention(Pattern):
    """Attention."""

    tree = SCALED_DOT_PRODUCT_ATTENTION
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (
        QDQPoint.INPUT,
        QDQPoint.KEY_INPUT,
        QDQPoint.VALUE_INPUT,
    )

    def build(self, attention: ScaledDotProductAttention) -> FusedScaledDotProductAttention:
        return FusedScaledDotProductAttention(attention)


TOY = Target(
    name="Toy",
    patterns=(ToyLinear, ToyAttention),
    config=QuantConfig(TensorQuantConfig(bits=7), attention="full"),
    opsets=range(18, 21),
    opset=20,
)
WRITTEN = Lowering(whole_attention=False)
LOWERINGS = {
    "whole": Lowering(),
    "written": WRITTEN,
    "factor first": replace(WRITTEN, factor_first=True),
    "key first": replace(WRITTEN, key_first=True),
    "float weights": replace(WRITTEN, quantized_weights="float"),
    "tensorrt's": TENSORRT.lowering,
}


class Net(nn.Module):
    """Attention of two heads, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = (one(x) for one in (self.query, self.key, self.value))
        heads = (one.unflatten(-1, (2, 4)).transpose(1, 2) for one in parts)
        return self.head(self.pool(F.scaled_dot_product_attention(*heads)).flatten(1))


def batches() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(2, 5, 8, generator=generator),) for _ in range(3)]


def transformed(target: Target) -> Result:
    torch.manual_seed(4)
    return transform(warm(Net()).eval(), batches()[0], target=target)


def before(file: File, name: str) -> Iterator[str]:
    """Operators that alone lead to a tensor."""
    while name in file.maker:
        node = file.maker[name]
        yield node.op_type
        name = node.input[0]


def product(file: File) -> onnx.NodeProto:
    """The first product of attention, of query and key."""
    (softmax,) = file.named("Softmax")
    node = file.maker[softmax.input[0]]
    while node.op_type != "MatMul":
        node = file.maker[node.input[0]]
    return node


@pytest.mark.parametrize(
    ("name", "attention", "precision"),
    [
        *((name, "full", "float16") for name in LOWERINGS),
        *((name, "inputs", "float32") for name in ("whole", "tensorrt's")),
    ],
)
def test_a_file_computes_what_was_simulated(
    name: str, attention: Any, precision: Any, tmp_path: Path
) -> None:
    config = replace(TOY.config, attention=attention)
    target = replace(TOY, lowering=LOWERINGS[name], config=config)
    model = quantize(transformed(target), batches())
    path = export_onnx(model, batches()[0], tmp_path / "toy.onnx", precision=precision)
    parity = verify_onnx(path, model, batches())
    assert parity.only_ties
    assert len(parity.stubs) == sum(isinstance(one, QuantStub) for one in model.modules())
    (opset,) = File(path).model.opset_import
    assert opset.version == 20


def test_the_config_is_the_targets() -> None:
    model = quantize(transformed(TOY), batches())
    found = {one.config.bits for one in model.modules() if isinstance(one, QuantStub)}
    assert found == {7}


@pytest.mark.parametrize(
    ("name", "query", "key"),
    [
        ("written", "Mul DequantizeLinear", "Transpose DequantizeLinear"),
        ("factor first", "DequantizeLinear QuantizeLinear Mul", "Transpose DequantizeLinear"),
        ("key first", "Mul DequantizeLinear", "DequantizeLinear QuantizeLinear Transpose"),
        (
            "tensorrt's",
            "DequantizeLinear QuantizeLinear Mul",
            "DequantizeLinear QuantizeLinear Transpose",
        ),
    ],
)
def test_factor_and_key_stand_where_the_target_wants_them(
    name: str, query: str, key: str, tmp_path: Path
) -> None:
    eight = QuantConfig(attention="inputs")  # with fewer bits there is a Clip before each pair
    target = replace(TOY, lowering=LOWERINGS[name], config=eight)
    model = quantize(transformed(target), batches())
    file = File(export_onnx(model, batches()[0], tmp_path / "toy.onnx"))
    for tensor, ops in zip(product(file).input, (query, key), strict=True):
        assert " ".join(before(file, tensor)).startswith(ops)


@pytest.mark.parametrize(("pooling", "op"), [(True, 1), (False, 0)])
def test_pools_are_the_targets(pooling: bool, op: int, tmp_path: Path) -> None:  # noqa: FBT001
    target = replace(TOY, lowering=Lowering(plain_pooling=pooling))
    path = export_onnx(transformed(target), batches()[0], tmp_path / "toy.onnx")
    assert File(path).ops()["GlobalAveragePool"] == op


def test_an_explicit_target_wins(tmp_path: Path) -> None:
    model = quantize(transformed(TOY), batches(), QuantConfig(attention="inputs"))
    path = export_onnx(model, batches()[0], tmp_path / "trt.onnx", target=TENSORRT)
    (opset,) = File(path).model.opset_import
    assert opset.version == 21
    assert verify_onnx(path, model, batches(), target=TENSORRT).only_ties
    with pytest.raises(VerificationError, match="has shape"):
        verify_onnx(path, model, batches())


REFUSED: dict[str, tuple[QuantConfig, dict[str, Any], str]] = {
    "opset": (TOY.config, {"opset": 21}, "opset 21 is not between 18 and 20, .* Toy reads"),
    "precision": (TOY.config, {"precision": "bfloat16"}, "opset 22 is not between"),
    "numbers": (
        QuantConfig(TensorQuantConfig(format="float8_e4m3")),
        {},
        "simulates FP8, and Toy takes signed integers alone",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_target_does_not_take_is_refused(name: str, tmp_path: Path) -> None:
    config, options, said = REFUSED[name]
    model = quantize(transformed(TOY), batches(), config)
    with pytest.raises(ExportError, match=said):
        export_onnx(model, batches()[0], tmp_path / "toy.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_unsigned_numbers_are_written_for_a_target_that_takes_them(tmp_path: Path) -> None:
    target = replace(TOY, numbers=frozenset({"int8", "uint8"}))
    config = QuantConfig(TensorQuantConfig(signed=False))
    torch.manual_seed(4)
    source = warm(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))).eval()
    model = quantize(transform(source, batches()[0], target=target), batches(), config)
    path = export_onnx(model, batches()[0], tmp_path / "toy.onnx")
    assert verify_onnx(path, model, batches()).only_ties
    file = File(path)
    kinds = {file.constants[node.input[2]].dtype.name for node in file.named("QuantizeLinear")}
    assert kinds == {"int8", "uint8"}
    assert OnnxModel(path)(*batches()[0])
