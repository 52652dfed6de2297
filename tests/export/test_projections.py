"""The products of a quantized in-projection have a weight each in the file."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
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


def test_a_projection_in_floating_point_stays_packed(tmp_path: Path) -> None:
    x: Tensor = torch.randn(2, 5, 16)
    path = export_onnx(transform(attention(), (x,)), (x,), tmp_path / "mha.onnx")
    products = [node for node in onnx.load(path).graph.node if node.op_type in {"MatMul", "Gemm"}]
    assert len(products) == 4  # packed projection, logits, result, out-projection
