"""F16: what it calls an error is refused by TensorRT for RTX, and the form beside it is built."""

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from embedl_deploy.tensorrt import Severity, check_onnx, compile_onnx

_IMAGE = "float[1,16,8,8] x"
_ROWS = "float[4,8] x"
_SCATTER = f"{_ROWS}, int64[2,8] i, float[2,8] u"
_SIZES = "<float[4] s={1,1,0.5,0.5}, int64[4] z={1,16,12,12}> "
_FACTORS = "<float[8] s={1,1,1,1,1,1,1,1}> "

BROKEN = {
    "dilated MaxPool": (_IMAGE, "y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x)"),
    "indices of MaxPool": (_IMAGE, "y, i = MaxPool<kernel_shape=[3,3]>(x)"),
    "dilated AveragePool": (_IMAGE, "y = AveragePool<kernel_shape=[3,3], dilations=[2,2]>(x)"),
    "dilated LpPool": (_IMAGE, "y = LpPool<kernel_shape=[3,3], dilations=[2,2]>(x)"),
    "adding ScatterElements": (_SCATTER, 'y = ScatterElements<reduction="add">(x, i, u)'),
    "adding ScatterND": (
        f"{_ROWS}, int64[2,1] i, float[2,8] u",
        'y = ScatterND<reduction="add">(x, i, u)',
    ),
    "mean of LayerNormalization": (_IMAGE, f"{_FACTORS}| y, m = LayerNormalization(x, s)"),
    "Resize with antialiasing": (
        _IMAGE,
        f'{_SIZES}| y = Resize<mode="linear", antialias=1>(x, , s)',
    ),
    "Resize of one ratio": (
        _IMAGE,
        f'{_SIZES}| y = Resize<mode="linear", keep_aspect_ratio_policy="not_larger">(x, , , z)',
    ),
    "Resize by half_pixel_symmetric": (
        _IMAGE,
        f'{_SIZES}| y = Resize<coordinate_transformation_mode="half_pixel_symmetric">(x, , s)',
    ),
    "TopK of many": ("float[4,8000] x", "k = Constant<value_ints=[5000]>() y, i = TopK(x, k)"),
    "ArgMax of a row": ("float[8] x", "y = ArgMax<keepdims=0>(x)"),
    "ArgMin of a row": ("float[8] x", "y = ArgMin<keepdims=0>(x)"),
    "Softmax of a row": ("float[8] x", "y = Softmax(x)"),
    "LogSoftmax of a row": ("float[8] x", "y = LogSoftmax(x)"),
    "CumProd": (_ROWS, "k = Constant<value_int=0>() y = CumProd(x, k)"),
    "Det": ("float[2,4,4] x", "y = Det(x)"),
    "BitwiseAnd": ("int32[4] x", "y = BitwiseAnd(x, x)"),
    "Unique": (_ROWS, "y = Unique<axis=0>(x)"),
    **{
        f"sums of {kind}": (f"{kind}[4,8] x", "y = Add(x, x)")
        for kind in ("int16", "uint16", "uint32", "uint64")
    },
    **{
        f"copies of {kind}": (f"{kind}[4] x", "y = Identity(x)")
        for kind in ("string", "complex64", "complex128")
    },
    "a cast to FP8 of the other kind": ("float[4] x", "q = Cast<to=19>(x) y = Cast<to=1>(q)"),
}
KEPT = {
    "MaxPool": (_IMAGE, "y = MaxPool<kernel_shape=[3,3], dilations=[1,1]>(x)"),
    "ScatterElements": (_SCATTER, "y = ScatterElements(x, i, u)"),
    "LayerNormalization": (_IMAGE, f"{_FACTORS}| y = LayerNormalization(x, s)"),
    "Resize": (_IMAGE, f'{_SIZES}| y = Resize<mode="cubic">(x, , s)'),
    "TopK": (_ROWS, "k = Constant<value_ints=[2]>() y, i = TopK(x, k)"),
    "ArgMax": (_ROWS, "y = ArgMax<keepdims=0>(x)"),
    "Softmax": (_ROWS, "y = Softmax(x)"),
    "sums of int64": ("int64[4,8] x", "y = Add(x, x)"),
}


def saved(inputs: str, body: str, folder: Path) -> Path:
    """Save a model of one line of nodes; constants come first, with `|` after them."""
    constants, _, nodes = body.rpartition("|")
    opset = 26 if "CumProd" in nodes else 21
    head = f'<ir_version: 10, opset_import: ["": {opset}]> graph ({inputs}) => (y) '
    model = onnx.parser.parse_model(f"{head}{constants}{{ {nodes} }}")
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert typed.graph.output[0].type.tensor_type.elem_type
    onnx.save(typed, path := folder / "model.onnx")
    return path


rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)


@pytest.mark.parametrize("name", [*BROKEN, *KEPT])
def test_what_is_refused_is_an_error(name: str, tmp_path: Path) -> None:
    path = saved(*(BROKEN | KEPT)[name], tmp_path)
    assert {one.rule for one in check_onnx(path).errors} == ({"F16"} if name in BROKEN else set())


@rtx
@pytest.mark.parametrize("name", [*BROKEN, *KEPT])
def test_the_compiler_refuses_what_is_broken_alone(name: str, tmp_path: Path) -> None:
    made = compile_onnx(saved(*(BROKEN | KEPT)[name], tmp_path), "rtx4090", compiler="rtx")
    assert made.built == (name in KEPT), made.errors


def test_what_data_centres_have_is_a_warning(tmp_path: Path) -> None:
    path = saved("float[4,8] x", "y = NonZero(x)", tmp_path)
    (found,) = (one for one in check_onnx(path).findings if one.rule == "F16")
    assert found.severity is Severity.WARNING
    assert "TensorRT for RTX has no NonZero" in found.message
