"""Layers of constants: computed once at export, and no product of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.export.lower import fold
from embedl_deploy.export.positions import constants
from embedl_deploy.quantize import QuantConfig, insert_qdq, placement, quantize
from embedl_deploy.tensorrt import explain_onnx

PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "Attention"}


class Encoded(nn.Module):
    """Positions of an image's size, for each row, through a convolution with norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.projection = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Conv2d(6, 6, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[0], 1, x.shape[2], x.shape[3])
        down, right = ones.cumsum(2) / x.shape[2], ones.cumsum(3) / x.shape[3]
        waves = torch.cat((down.sin(), down.cos(), right.sin(), right.cos()), 1)
        return self.first(x) * self.projection(waves)


class Added(Encoded):
    """The same, added to the result of another convolution."""

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.linspace(-1, 1, 4 * 60).view(1, 4, 6, 10)
        return self.first[0](x) + self.projection(waves)


class Biased(nn.Module):
    """A bias of attention from an MLP on relative positions, as Swin V2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.linspace(-2, 2, 2 * 7).reshape(7, 2)
        self.index = torch.arange(16).reshape(4, 4) % 7
        self.mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 8))
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bias = 16 * self.mlp(self.table)[self.index.view(-1)].view(4, 4, -1).sigmoid()
        return self.first(x)[:, None] + bias.permute(2, 0, 1)[None]


class Asked(nn.Module):
    """Learned queries, repeated for each row, ask the input."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 16))
        self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.q(F.layer_norm(self.queries, (16,)).expand(x.shape[0], -1, -1))
        return asked @ self.k(x).transpose(1, 2)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "convolution": (Encoded, (2, 3, 6, 10), 1),
    "residual": (Added, (2, 3, 6, 10), 1),
    "mlp": (Biased, (2, 4, 4), 1),
    "queries": (Asked, (2, 7, 16), 2),
}
"""A model, the shape of its input, and how many products are left."""


def ready(name: str) -> tuple[nn.Module, list[Tensor], int]:
    make, shape, left = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):
            for key, tensor in one.state_dict().items():
                low = 0.5 if key == "running_var" else -1.0
                nn.init.uniform_(tensor, low, 2.0) if tensor.is_floating_point() else None
    return model, [torch.randn(shape) for _ in range(2)], left


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("precision", "dynamic_batch"),
    [("float32", False), ("float16", True)],
    ids=["float32", "float16, dynamic"],
)
def test_no_product_of_constants_is_in_the_file(
    name: str, precision: str, *, dynamic_batch: bool, tmp_path: Path
) -> None:
    model, data, left = ready(name)
    quantized = quantize(transform(model, (data[0],)), data)
    path = export_onnx(
        quantized,
        data[0],
        tmp_path / "model.onnx",
        precision=precision,  # type: ignore[arg-type]
        dynamic_batch=dynamic_batch,
    )
    found = operators(path)
    assert sum(one in PRODUCTS for one in found) == left
    assert found.count("QuantizeLinear") == 1
    assert verify_onnx(path, quantized, data).only_ties
    if dynamic_batch:
        more = torch.cat((data[0], data[1], data[0]))
        assert verify_onnx(path, quantized, [more, data[1]]).only_ties


class Attended(nn.Module):
    """Attention of learned queries, as in detectors and poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 8, 64))
        self.q, self.kv, self.o = nn.Linear(64, 64), nn.Linear(64, 128), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        query = self.q(self.queries.expand(rows, -1, -1)).reshape(rows, 8, 2, 32).transpose(1, 2)
        both = self.kv(x).reshape(rows, length, 2, 2, 32).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, both[0], both[1])
        return self.o(seen.transpose(1, 2).reshape(rows, 8, 64))


@pytest.mark.parametrize("attention", ["none", "full"])
@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["fixed", "dynamic"])
def test_stored_queries_take_in_the_factor_on_the_logits(
    attention: Literal["none", "full"], *, dynamic_batch: bool, tmp_path: Path
) -> None:
    """Else the file would hold their product, which half precision has rounded twice."""
    torch.manual_seed(0)
    data = [torch.randn(2, 32, 64) for _ in range(2)]
    result = transform(Attended().eval(), (data[0],))
    quantized = quantize(result, data, QuantConfig(attention=attention))
    path = export_onnx(
        quantized,
        data[0],
        tmp_path / "model.onnx",
        precision="float16",
        dynamic_batch=dynamic_batch,
    )
    assert verify_onnx(path, quantized, data).only_ties
    found = operators(path)
    assert "Mul" not in found
    assert sum(one in PRODUCTS for one in found) == 5
    assert any("K01" in one.rules for one in explain_onnx(path).kernels)


@pytest.mark.parametrize("name", MODELS)
def test_stored_values_are_the_models(name: str, tmp_path: Path) -> None:
    """For other batches than the example's too, beside the untouched model."""
    model, data, left = ready(name)
    path = export_onnx(
        transform(model, (data[0],)), data[0], tmp_path / "model.onnx", dynamic_batch=True
    )
    assert sum(one in PRODUCTS for one in operators(path)) == left
    for batch in (torch.cat((data[0], data[1][:1])), data[1]):
        computed = next(iter(OnnxModel(path)(batch).values()))
        with torch.no_grad():
            torch.testing.assert_close(computed, model(batch), rtol=1e-4, atol=1e-5)


def test_one_row_is_stored_for_a_batch(tmp_path: Path) -> None:
    model, data = Encoded().eval(), torch.randn(2, 3, 48, 60)
    path = export_onnx(transform(model, (data,)), data, tmp_path / "model.onnx")
    sizes = [list(one.dims) for one in onnx.load(path).graph.initializer]
    assert [1, 6, 48, 60] in sizes
    assert [2, 6, 48, 60] not in sizes


class Wide(nn.Module):
    """A convolution of 16 KiB of positions, whose result has 2 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
        self.spread = nn.Conv2d(1, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.spread(self.positions * 2) * x).sum(1)


def test_results_much_larger_than_their_sources_are_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Wide().eval(), torch.randn(1, 1, 64, 64)
    path = export_onnx(transform(model, (data,)), data, tmp_path / "m.onnx", precision="float16")
    assert operators(path).count("Conv") == 1
    assert path.stat().st_size < 64 << 10


def test_what_draws_numbers_is_not_stored() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.linspace(-1, 1, 81).view(1, 1, 9, 9)
            self.pool = nn.FractionalMaxPool2d(2, output_size=4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.pool(self.table)

    data = torch.randn(2, 1, 4, 4)
    folded = fold(transform(Drawing().eval(), (data,)).model)
    assert constants(folded, (data,), "nothing") == {}


def test_layers_of_constants_train(tmp_path: Path) -> None:
    """Export stores what they give now; in the model they stay layers."""
    model, data, left = ready("mlp")
    quantized = quantize(transform(model, (data[0],)), data)
    before = export_onnx(quantized, data[0], tmp_path / "before.onnx")
    quantized.train()
    weight = quantized.get_parameter("mlp.0.linear.weight")
    optimizer = torch.optim.SGD(quantized.parameters(), 0.1)
    quantized(data[0]).square().mean().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    optimizer.step()
    quantized.eval()
    after = export_onnx(quantized, data[0], tmp_path / "after.onnx")
    assert verify_onnx(after, quantized, data).only_ties
    assert not verify_onnx(before, quantized, data).only_ties
    assert sum(one in PRODUCTS for one in operators(after)) == left


def test_placement_says_why_a_layer_of_constants_is_not_quantized() -> None:
    model, data, _ = ready("convolution")
    quantized = insert_qdq(transform(model, (data[0],)))
    left = {row.path: row.reason for row in placement(quantized).rows if row.what == "none"}
    assert left == dict.fromkeys(
        ("projection.0", "projection.3"), "its inputs are the same for every input of the model"
    )
    assert [row.path for row in placement(quantized).rows if row.what == "weight"] == [
        "first.0.conv.weight"
    ]


def test_a_layer_that_also_takes_an_input_is_quantized() -> None:
    """The same module, called on a constant and on the input."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.layer(self.token)

    quantized = insert_qdq(transform(Twice().eval(), (torch.randn(2, 8),)))
    kinds = [row.what for row in placement(quantized).rows]
    assert sorted(kinds) == ["none", "stub", "weight"]
