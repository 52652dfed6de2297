"""The products of a quantized in-projection have a weight each in the file, or one for all."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import Target, transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import QuantConfig, quantize
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_FP8_CONFIG, TENSORRT_RTX, compile_onnx
from tests.helpers import net


def attention(**options: bool) -> nn.Module:
    """Self-attention with a packed weight, or cross-attention."""
    cross = options.pop("cross", False)
    model = net(
        lambda self, x: self.mha(x, x.flip(1) if cross else x, x, need_weights=False)[0],
        mha=nn.MultiheadAttention(16, 2, batch_first=True, **options),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"cross": True}], ids=["packed", "no bias", "cross"]
)
def test_three_int8_weights_are_written_for_a_packed_one(
    options: dict[str, bool], precision: str, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source, data = attention(**options), [torch.randn(2, 5, 16) for _ in range(2)]
    model = quantize(transform(source, (data[0],)), data)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    path = export_onnx(model, (data[0],), tmp_path / "mha.onnx", precision=precision)  # type: ignore[arg-type]
    graph = onnx.load(path).graph
    weights = [one.name for one in graph.initializer if one.name.endswith("_proj_weight")]
    assert [name.rpartition(".")[2][0] for name in sorted(weights)] == ["k", "q", "v"]
    inside = [node.op_type for node in graph.node if "in_projection" in node.name]
    assert not {"Split", "Slice", "Gather"} & {*inside}
    parity = verify_onnx(path, model, data)
    assert parity.only_ties
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_the_products_share_one_quantized_input(tmp_path: Path) -> None:
    x = torch.randn(2, 5, 16)
    path = export_onnx(quantize(transform(attention(), (x,)), [x]), (x,), tmp_path / "mha.onnx")
    graph = onnx.load(path).graph
    made = {name: node for node in graph.node for name in node.output}
    read = {
        node.input[0]
        for node in graph.node
        if node.op_type in {"MatMul", "Gemm"} and "proj_weight" in _weight(node.input[1], made)
    }
    assert len(read) == 1


def _weight(name: str, made: dict[str, onnx.NodeProto]) -> str:
    """The initializer that an input comes from."""
    while name in made:
        name = made[name].input[0]
    return name


def spatially_reduced(*, bias: bool = True) -> nn.Module:
    """Attention whose key and value come packed from a shorter sequence, as in PVT."""

    def forward(self: Any, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query = self.q(x).reshape(batch, length, 2, width // 2).permute(0, 2, 1, 3)
        kv = self.kv(self.norm(x[:, ::2])).reshape(batch, -1, 2, 2, width // 2)
        mixed = F.scaled_dot_product_attention(query, *kv.permute(2, 0, 3, 1, 4).unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))

    parts: dict[str, nn.Module] = {
        "q": nn.Linear(16, 16),
        "norm": nn.LayerNorm(16),
        "kv": nn.Linear(16, 32, bias=bias),
        "proj": nn.Linear(16, 16),
    }
    model = net(forward, **parts)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


@pytest.mark.parametrize(
    ("target", "config", "precision", "options"),
    [
        (TENSORRT, None, "float32", {}),
        (TENSORRT, TENSORRT_FP8_CONFIG, "float16", {"bias": False}),
        (TENSORRT_RTX, None, "float16", {}),
        (TENSORRT_RTX, TENSORRT_FP8_CONFIG, "float32", {"bias": False}),
    ],
    ids=["int8", "fp8", "int8 for rtx", "fp8 for rtx"],
)
def test_key_and_value_of_one_weight(
    target: Target,
    config: QuantConfig | None,
    precision: str,
    options: dict[str, bool],
    tmp_path: Path,
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source, data = spatially_reduced(**options), [torch.randn(2, 6, 16) for _ in range(2)]
    result = transform(source, (data[0],), target=target)
    assert torch.equal(result.model(data[0]), source(data[0]))
    assert result.fused["FusedMHAInProjection"] == 1
    model = quantize(result, data, config)
    path = export_onnx(model, (data[0],), tmp_path / "kv.onnx", precision=precision)  # type: ignore[arg-type]
    weights = [one.dims for one in onnx.load(path).graph.initializer if len(one.dims) == 2]
    packed = target is TENSORRT_RTX
    assert len(weights) == (3 if packed else 4)
    assert ([16, 32] in weights or [32, 16] in weights) == packed
    assert verify_onnx(path, model, data).only_ties


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)
def test_the_compiler_keeps_int8_in_key_and_value(tmp_path: Path) -> None:
    x = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(0))
    model = quantize(transform(spatially_reduced(), (x,)), [x])
    path = export_onnx(model, (x,), tmp_path / "kv.onnx", precision="float16")
    made = compile_onnx(path, "rtx4090", compiler="rtx")
    assert made.built
    assert not made.lost


def test_training_a_projection_in_two_parts_trains_the_packed_weight() -> None:
    torch.manual_seed(0)
    source, x = spatially_reduced(), torch.randn(2, 6, 16)
    model = transform(source, (x,)).model
    for one in (source, model):
        one(x).square().sum().backward()
    for name, own in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
        got = model.get_parameter(f"kv.projection.{own}").grad
        assert got is not None
        torch.testing.assert_close(got, source.get_parameter(f"kv.{name}").grad)


def test_a_projection_in_floating_point_stays_packed(tmp_path: Path) -> None:
    x: Tensor = torch.randn(2, 5, 16)
    path = export_onnx(transform(attention(), (x,)), (x,), tmp_path / "mha.onnx")
    products = [node for node in onnx.load(path).graph.node if node.op_type in {"MatMul", "Gemm"}]
    assert len(products) == 4  # packed projection, logits, result, out-projection
