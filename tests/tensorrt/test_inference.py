"""Shapes are known also after operators that ONNX's own inference stops at."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.tensorrt import explain_onnx


class Recurrent(nn.Module):
    """Two layers of a recurrent network, whose results are reshaped by computed sizes."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.layers = kind(8, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0])


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(8, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.MaxPool2d(2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def products(gates: int) -> int:
    """Of five steps in two directions of two layers, and of the head."""
    return 5 * (2 * gates * 16 * ((8 + 16) + (32 + 16)) + 32 * 4)


CASES = {
    "group norms": (
        Norms(),
        torch.randn(1, 8, 12, 12),
        8 * 8 * 9 * (10 * 10 + 18 * 18) + 8 * 8 * 18 * 18,
    ),
    "LSTM": (Recurrent(nn.LSTM), torch.randn(1, 5, 8), products(4)),
    "GRU": (Recurrent(nn.GRU), torch.randn(1, 5, 8), products(3)),
}


def written(model: nn.Module, x: Tensor, path: Path) -> Path:
    return export_onnx(transform(model.eval(), (x,)), (x,), path, dynamic_batch=True)


@pytest.mark.parametrize(("model", "x", "macs"), CASES.values(), ids=CASES)
def test_shapes_are_those_that_a_runtime_finds(
    model: nn.Module, x: Tensor, macs: int, tmp_path: Path
) -> None:
    path = written(model, x, tmp_path / "m.onnx")
    file = onnx.load(path)
    ends = {one.name for one in file.graph.output}
    inner = [name for node in file.graph.node for name in node.output if name and name not in ends]
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": x.numpy()}), strict=True))
    graph = OnnxFile.open(path).with_shapes({}).view.graph
    shapes = {value.name: value.shape for node in graph for value in node.outputs if value.name}
    assert shapes == {name: found[name].shape for name in shapes}
    explanation = explain_onnx(path)
    assert not explanation.uncounted
    assert explanation.macs == {"FP32": macs}
    # operators and constants are those of the file, however shapes were found
    assert [one.op for one in graph] == [one.op_type for one in onnx.load(path).graph.node]


def test_operators_of_another_runtime_keep_shapes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    entries = [helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 3, 4]), ("z", 1, None))]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 5], [0.0] * 20)
    graph = helper.make_graph(nodes, "g", entries[:1], entries[1:], [weight])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    assert explain_onnx(tmp_path / "m.onnx").macs == {"FP32": 2 * 3 * 4 * 5}


def test_what_is_not_counted_stands_beside_the_percentages(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="counted"),
        helper.make_node("Einsum", ["y", "y"], ["z"], equation="ij,kj->ik", name="hidden"),
    ]
    entries = [helper.make_tensor_value_info(*one) for one in (("x", 1, [3, 4]), ("z", 1, [3, 3]))]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 5], [0.0] * 20)
    graph = helper.make_graph(nodes, "g", entries[:1], entries[1:], [weight])
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    found = explain_onnx(tmp_path / "m.onnx")
    assert "of those that are known, 100.0% in FP32; 1 operator not counted, such as 'hidden'" in (
        found.summary
    )
    assert "Arithmetic known" in str(found)
