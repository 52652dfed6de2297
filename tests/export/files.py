"""Reading an exported file with onnx alone, independent of what wrote it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx, nn

from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.kernel import Kernel
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize


class File:
    """A file, checked as far as onnx checks."""

    def __init__(self, path: Path) -> None:
        onnx.checker.check_model(str(path), full_check=True)
        self.path = path
        self.model = onnx.load(str(path))
        self.nodes = list(self.model.graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer
        }
        self.maker = {output: node for node in self.nodes for output in node.output}

    def ops(self) -> Counter[str]:
        return Counter(node.op_type for node in self.nodes)

    def named(self, op: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == op]

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [one for one in self.nodes if node.output[0] in one.input]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def stubs_of(model: fx.GraphModule) -> dict[str, QuantStub]:
    named = model.named_modules()
    return {path: one for path, one in named if isinstance(one, QuantStub)}


def quantizers_of(model: fx.GraphModule) -> dict[str, WeightFakeQuantize]:
    """By the paths of the weights in the file, which their operators are named by."""
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, FusedModule):
            continue
        written = module.unpacked(lambda quantizer, _: quantizer)
        for weight in written.weights():
            if (quantizer := written.quantizer(weight)) is None:
                continue
            assert isinstance(quantizer, WeightFakeQuantize)
            found[f"{path}.{weight}"] = quantizer
    return found


def written_as(model: fx.GraphModule) -> dict[str, tuple[Tensor, list[str]]]:
    """The rounded weights of a model by path, each with the paths of its parts in the file."""
    found: dict[str, tuple[Tensor, list[str]]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, FusedModule):
            continue
        written = module.unpacked(lambda quantizer, _: quantizer)
        for part, own in zip(module.parts, written.parts, strict=True):
            if module.quantizer(part.weight) is not None:
                rounded = module.weight(part.weight).detach()
                _, names = found.setdefault(f"{path}.{part.weight}", (rounded, []))
                names.append(f"{path}.{own.weight}")
    return found


def assert_typed(file: File) -> None:
    """The opset is 21, no other domain is used, and nothing says where the file was made."""
    assert [(one.domain, one.version) for one in file.model.opset_import] == [("", 21)]
    assert {node.domain for node in file.nodes} == {""}
    assert not file.model.functions
    content = file.path.read_bytes()
    here = str(Path(__file__).parents[2])
    for trace in (here, "site-packages", 'File "', ".py", "stack_trace", "pkg.torch", "/home/"):
        assert trace.encode() not in content


def assert_pairs(file: File, model: fx.GraphModule, dtype: str = "float32") -> None:
    """Each stub is a pair with its scale and an int8 zero-point, and there is no other pair.

    That of a query has its scale times the factor on the logits that is before it.
    """
    stubs = stubs_of(model)
    quantize = file.named("QuantizeLinear")
    assert [node.name.removesuffix("/QuantizeLinear") for node in quantize]
    for node in quantize:
        stub = stubs[node.name.removesuffix("/QuantizeLinear")]
        scale, zero_point = (file.constants[name] for name in node.input[1:])
        assert (scale.ndim, scale.dtype.name) == (0, dtype)
        want = stub.scale * _factor(file, node)
        assert torch.tensor(scale) == want.to(getattr(torch, dtype)) > 0
        assert (zero_point.ndim, zero_point.dtype.name, zero_point.item()) == (0, "int8", 0)
        readers = file.readers(node)
        assert [reader.op_type for reader in readers] == ["DequantizeLinear"]
        assert np.array_equal(file.constants[readers[0].input[1]], scale)
        assert np.array_equal(file.constants[readers[0].input[2]], zero_point)
        assert file.constants[readers[0].input[2]].dtype == np.int8
        source = file.maker.get(node.input[0])
        assert source is None or source.op_type != "DequantizeLinear"


def _factor(file: File, quantize: onnx.NodeProto) -> float:
    """What the operator multiplies in front of a pair, if that is part of its stub."""
    stub = quantize.name.removesuffix("QuantizeLinear")
    source = file.maker.get(quantize.input[0])
    if source is None or source.op_type != "Mul" or not source.name.startswith(stub):
        return 1.0
    (factor,) = (file.constants[name] for name in source.input if name in file.constants)
    return float(factor)


def assert_attention(file: File, model: fx.GraphModule) -> None:
    """Nothing is between a pair and the multiplications of attention."""
    for name, stub in stubs_of(model).items():
        if not any(".attention " in f".{p}" and not p.endswith("OUTPUT") for p in stub.points):
            continue
        (pair,) = (n for n in file.nodes if n.name == f"{name}/DequantizeLinear")
        assert [reader.op_type for reader in file.readers(pair)] == ["MatMul"]


def assert_weights(file: File, model: fx.GraphModule, dtype: str = "float32") -> None:
    """Each quantized weight is stored once, as int8, with a scale per output channel."""
    quantizers = quantizers_of(model)
    assert quantizers
    from_constants = [
        node for node in file.named("DequantizeLinear") if node.input[0] in file.constants
    ]
    assert len(from_constants) == len(quantizers)
    for node in from_constants:
        integers, scale, zero_point = (file.constants[name] for name in node.input)
        quantizer = quantizers[node.name.removesuffix("/DequantizeLinear")]
        axis = int({reader.op_type for reader in file.readers(node)} == {"ConvTranspose"})
        assert attributes(node) == {"axis": axis}
        assert integers.dtype == zero_point.dtype == np.int8
        assert not zero_point.any()
        assert scale.dtype.name == dtype
        assert 0 < scale.min() <= scale.max() < np.inf
        assert scale.shape == zero_point.shape == integers.shape[axis : axis + 1]
        assert np.abs(integers.astype(int)).max() <= quantizer.highest


def assert_no_leftovers(file: File, model: fx.GraphModule) -> None:
    """Every constant is used, and none is the float copy of a quantized weight."""
    used = {name for node in file.nodes for name in node.input}
    assert set(file.constants) <= used
    sizes = [one.size for one in file.constants.values() if one.dtype == np.int8 and one.ndim > 1]
    assert len(sizes) == len(quantizers_of(model))
    others = {one.shape for one in file.constants.values() if one.dtype != np.int8}
    shapes = {tuple(weight.shape) for weight in quantized_weights(model)}
    assert shapes
    assert not shapes & others
    assert not {shape[::-1] for shape in shapes} & others


def assert_slim(file: File) -> None:
    """Nothing is written that every reader knows, and zeros are stored once."""
    assert not file.model.graph.value_info
    for node in file.nodes:
        known = onnx.defs.get_schema(node.op_type, 21).attributes
        if not node.op_type.endswith(("QuantizeLinear", "DequantizeLinear")):
            defaults = [known[one.name].default_value for one in node.attribute]
            assert not any(one in defaults for one in node.attribute)
    zeros = [name for name in file.constants if name.startswith("zero_point")]
    kinds = {(file.constants[name].shape, file.constants[name].dtype) for name in zeros}
    assert len(zeros) == len(kinds)


def quantized_weights(model: fx.GraphModule) -> list[Tensor]:
    """The weights that have a quantizer."""
    fused = [one for one in model.modules() if isinstance(one, FusedModule)]
    return [
        one.get_parameter(path)
        for one in fused
        for path in one.quantizable_weights()
        if one.quantizer(path) is not None
    ]


def assert_whole_kernels(file: File, model: fx.GraphModule, kept_norms: int) -> None:
    """No batch norm stays after a convolution, and no pair is inside a kernel."""
    assert file.ops()["BatchNormalization"] == kept_norms
    for conv in file.named("Conv"):
        assert all(reader.op_type != "BatchNormalization" for reader in file.readers(conv))
    fused = {path: one for path, one in model.named_modules() if isinstance(one, FusedModule)}
    for node in (*file.named("QuantizeLinear"), *file.named("DequantizeLinear")):
        inside = [path for path in fused if node.name.startswith((f"{path}.", f"{path}/"))]
        assert not inside or node.name.removesuffix("/DequantizeLinear") in quantizers_of(model)
    for path, one in fused.items():
        if hasattr(one, "activation"):
            product = _product(file, path)
            after = [reader.op_type for reader in file.readers(product)]
            assert after
            assert "QuantizeLinear" not in after


def _product(file: File, path: str) -> onnx.NodeProto:
    kinds = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    products = [node for node in file.nodes if node.op_type in kinds]
    inside = (f"{path}/", f"{path}.conv/", f"{path}.linear/")
    (found,) = (node for node in products if node.name.startswith(inside))
    return found


def assert_names(file: File, model: fx.GraphModule) -> None:
    """Nodes are named by modules of the model and the softmax of its attention, each name once."""
    names = [node.name for node in file.nodes]
    assert len(set(names)) == len(names)
    modules = {path for path, _ in model.named_modules(remove_duplicate=False)}
    modules |= {f"{path}.softmax" for path in modules if path.endswith("attention")}
    convs = (nn.Conv2d, nn.ConvTranspose2d)  # one that no pattern took is fused with its norm
    modules |= {f"{path}.conv" for path, one in model.named_modules() if isinstance(one, convs)}
    modules |= quantizers_of(model).keys()
    modules |= {f"{path}.affine" for path, one in model.named_modules() if isinstance(one, Kernel)}
    for node in file.nodes:
        path, _, op = node.name.rpartition("/")
        assert op.split("_")[0] == node.op_type
        assert path in modules
