"""The target of TensorRT for RTX: one scale a weight, keys transposed after their pair."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from embedl_deploy import Target, transform
from embedl_deploy.errors import VerificationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import QuantConfig, quantize
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_FP8_CONFIG, TENSORRT_RTX, compile_onnx
from tests.export.files import File
from tests.helpers import warm

EXAMPLE = torch.randn(2, 16, 12, 12, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Convolutions with and without batch norm, a depthwise one, a residual and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.last = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(torch.relu(self.last(self.depthwise(x)) + x))


class Excited(nn.Module):
    """Squeeze-and-excitation after a convolution, and a classifier."""

    def __init__(self, classes: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU())
        self.excite = nn.Conv2d(8, 32, 1)
        self.last = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU())
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.last(x * torch.sigmoid(self.excite(self.squeeze(self.pool(x)))))
        return self.head(self.pool(x).flatten(1))


class Attend(nn.Module):
    """Attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def quantized(
    target: Target, module: nn.Module, example: Tensor, config: QuantConfig | None = None
) -> fx.GraphModule:
    torch.manual_seed(1)
    result = transform(warm(module).eval(), (example,), target=target)
    return quantize(result, [example], config)


def scales(file: File) -> list[np.ndarray]:
    """Of the weights."""
    stored = {one.name: numpy_helper.to_array(one) for one in file.model.graph.initializer}
    nodes = [node for node in file.named("DequantizeLinear") if node.input[0] in stored]
    return [stored[node.input[1]] for node in nodes]


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("config", [None, TENSORRT_FP8_CONFIG], ids=["int8", "fp8"])
def test_a_weight_has_one_scale_and_computes_what_was_simulated(
    config: QuantConfig | None, precision: str, tmp_path: Path
) -> None:
    model = quantized(TENSORRT_RTX, Block(), EXAMPLE, config)
    path = export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    parity = verify_onnx(path, model, [EXAMPLE])
    assert parity.only_ties
    found = scales(File(path))
    assert len(found) == (3 if config is None else 2)  # FP8 wants over 16 channels
    assert {one.shape for one in found} == {()}
    exponents = np.log2(np.array(found, np.float64))
    assert (exponents == exponents.round()).all()


def test_a_wrong_factor_is_found(tmp_path: Path) -> None:
    model = quantized(TENSORRT_RTX, Block(), EXAMPLE)
    path = export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx")
    other = quantized(TENSORRT_RTX, Block(), EXAMPLE)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    with pytest.raises(VerificationError, match=r"."):
        _hold(path, other)


def _hold(path: Path, model: fx.GraphModule) -> None:
    if not verify_onnx(path, model, [EXAMPLE]).only_ties:
        raise VerificationError("it differs")


PICKLED = """
import sys, torch
from embedl_deploy.default import target_for
model = torch.load(sys.argv[1], weights_only=False)
torch.save((target_for(model).name, model(torch.load(sys.argv[2]))), sys.argv[3])
"""


@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=lambda one: one.name)
def test_a_pickled_model_knows_its_target_in_a_new_process(target: Target, tmp_path: Path) -> None:
    model = quantized(target, Block(), EXAMPLE)
    paths = [tmp_path / name for name in ("model.pt", "x.pt", "y.pt")]
    torch.save(model, paths[0])
    torch.save(EXAMPLE, paths[1])
    subprocess.run([sys.executable, "-c", PICKLED, *map(str, paths)], check=True)
    name, output = torch.load(paths[2])
    assert name == target.name
    torch.testing.assert_close(output, model(EXAMPLE))


@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=lambda one: one.name)
def test_integers_and_bytes_are_those_of_the_other_target(target: Target, tmp_path: Path) -> None:
    """Per channel or not, a weight stands for the same numbers."""
    layer = nn.Sequential(nn.Conv2d(16, 8, 3))
    model = quantized(target, layer, EXAMPLE)
    file = File(export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx"))
    stored = {one.name: numpy_helper.to_array(one) for one in file.model.graph.initializer}
    (weight,) = [one for one in stored.values() if one.dtype == np.int8 and one.ndim == 4]
    assert (np.abs(weight).reshape(8, -1).max(1) == 127).all()
    assert len(file.named("Mul")) == (target is TENSORRT_RTX)


def test_channels_that_lie_far_apart_keep_their_scales(tmp_path: Path) -> None:
    conv = nn.Conv2d(16, 8, 3)
    with torch.no_grad():
        conv.weight[0] *= 1e6
        conv.weight[1] = 0
    model = quantized(TENSORRT_RTX, nn.Sequential(conv), EXAMPLE)
    path = export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx")
    assert [one.shape for one in scales(File(path))] == [(8,)]
    assert verify_onnx(path, model, [EXAMPLE]).only_ties


def test_a_channel_of_zeros_does_not_count(tmp_path: Path) -> None:
    conv = nn.Conv2d(16, 8, 3)
    with torch.no_grad():
        conv.weight[1] = 0
    model = quantized(TENSORRT_RTX, nn.Sequential(conv), EXAMPLE)
    path = export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx", precision="float16")
    assert [one.shape for one in scales(File(path))] == [()]
    assert verify_onnx(path, model, [EXAMPLE]).only_ties


def test_keys_are_transposed_after_their_pair(tmp_path: Path) -> None:
    before = {}
    for target in (TENSORRT, TENSORRT_RTX):
        model = quantized(target, Attend(), WORDS, QuantConfig(attention="full"))
        file = File(export_onnx(model, (WORDS,), tmp_path / "model.onnx"))
        assert verify_onnx(file.path, model, [WORDS]).only_ties
        (softmax,) = file.named("Softmax")
        scores = file.maker[softmax.input[0]]
        before[target.name] = file.maker[scores.input[1]].op_type
    assert before == {"TensorRT": "DequantizeLinear", "TensorRT for RTX": "Transpose"}


class Cross(nn.Module):
    """Attention to another input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flip(1)
        return self.attention(x, y, y, need_weights=False)[0]


WORDS = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("config", [None, TENSORRT_FP8_CONFIG], ids=["int8", "fp8"])
def test_a_packed_projection_is_one_product(
    config: QuantConfig | None, precision: str, tmp_path: Path
) -> None:
    model = quantized(TENSORRT_RTX, Attend(), WORDS, config)
    path = export_onnx(model, (WORDS,), tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    assert verify_onnx(path, model, [WORDS]).only_ties
    file = File(path)
    assert {one.shape for one in scales(file)} == {()}
    stored = [tuple(one.dims) for one in file.model.graph.initializer if len(one.dims) == 2]
    assert (96, 32) in stored
    assert (32, 32) in stored
    assert len(stored) == 2


def test_a_projection_of_two_inputs_stays_separate(tmp_path: Path) -> None:
    model = quantized(TENSORRT_RTX, Cross(), WORDS)
    path = export_onnx(model, (WORDS,), tmp_path / "model.onnx")
    assert verify_onnx(path, model, [WORDS]).only_ties
    assert sorted(one.shape for one in scales(File(path))) == [(), (32,), (32,), (32,)]


def test_a_wrong_factor_of_a_projection_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = quantized(TENSORRT_RTX, Attend(), WORDS)
    export_onnx(model, (WORDS,), path)
    with torch.no_grad():
        model.get_parameter("attention.in_projection.projection.in_proj_weight")[40] *= 2
    assert not verify_onnx(path, model, [WORDS]).only_ties


ROWS = {"squeeze.0", "excite", "head"}


def in_half(target: Target, module: nn.Module, example: Tensor | None) -> set[str]:
    """Paths of products that keep floating point, those of pooling left out."""
    inputs = None if example is None else (example,)
    result = transform(module.eval(), inputs, target=target)
    return {one.path for one in result.matches if one.kept_float}


def test_a_product_of_one_row_is_left_in_half_precision() -> None:
    assert in_half(TENSORRT_RTX, Excited(), EXAMPLE[:1]) == ROWS
    assert in_half(TENSORRT_RTX, Excited(), EXAMPLE) == set()
    assert in_half(TENSORRT, Excited(), EXAMPLE[:1]) == set()
    assert in_half(TENSORRT_RTX, Excited(), None) == set()


def test_a_row_of_a_large_weight_is_quantized() -> None:
    assert in_half(TENSORRT_RTX, Excited(2**16), EXAMPLE[:1]) == ROWS - {"head"}


def test_single_rows_do_not_hide_why_groups_stay_in_floating_point() -> None:
    grouped = nn.Sequential(nn.Conv2d(16, 8, 1, groups=8))
    (match,) = transform(grouped.eval(), (EXAMPLE,), target=TENSORRT_RTX).matches
    assert "its groups have 2 input" in match.kept_float


@pytest.mark.parametrize("shape", [(1, 1, 32), (1, 5, 32), (32,), (5, 32)])
def test_rows_of_a_linear_layer_are_all_dimensions_but_the_last(shape: tuple[int, ...]) -> None:
    layer = nn.Sequential(nn.Linear(32, 16))
    assert in_half(TENSORRT_RTX, layer, torch.ones(shape)) == (set() if 5 in shape else {"0"})


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)
@pytest.mark.parametrize(
    ("module", "example"), [(Excited, EXAMPLE[:1]), (Attend, WORDS)], ids=["rows", "projection"]
)
def test_the_compiler_makes_fewer_kernels(
    module: type[nn.Module], example: Tensor, tmp_path: Path
) -> None:
    kernels = {}
    for target in (TENSORRT, TENSORRT_RTX):
        model = quantized(target, module(), example)
        path = export_onnx(model, (example,), tmp_path / "model.onnx", precision="float16")
        made = compile_onnx(path, "rtx4090", compiler="rtx")
        assert made.built
        assert not made.lost
        assert all(one.reads for one in made.attentions)
        kernels[target.name] = len(made.kernels)
    assert kernels["TensorRT for RTX"] + 2 <= kernels["TensorRT"], kernels


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)
def test_the_compiler_moves_fewer_bytes(tmp_path: Path) -> None:
    moved, kernels = {}, {}
    for target in (TENSORRT, TENSORRT_RTX):
        model = quantized(target, Block(), EXAMPLE)
        path = export_onnx(model, (EXAMPLE,), tmp_path / "model.onnx", precision="float16")
        made = compile_onnx(path, "rtx4090", compiler="rtx")
        assert made.built
        assert not made.lost
        moved[target.name], kernels[target.name] = made.bytes or 0, len(made.kernels)
    assert 1.3 * moved["TensorRT for RTX"] < moved["TensorRT"], moved
    assert kernels["TensorRT for RTX"] <= kernels["TensorRT"], kernels
