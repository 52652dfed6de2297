"""Operators that `torch.onnx` does not translate, or translates for some of their inputs alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError
from embedl_deploy.export import export_onnx
from embedl_deploy.tensorrt import TENSORRT, check_onnx

X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


class Computes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Writes(nn.Module):
    """Writes a row at a time, as models do that read a text letter by letter."""

    def __init__(self, *, rows: int) -> None:
        super().__init__()
        self.head = nn.Linear(5, 7)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        letters = torch.full((x.size(0), 6), 9, dtype=torch.long)
        for at in range(5):
            letters[:, at + 1] = self.head(x[: self.rows, at : at + 1]).squeeze().argmax(-1)
        return letters


def computed(model: nn.Module, x: Tensor, folder: Path) -> Tensor:
    path = folder / "model.onnx"
    export_onnx(transform(model.eval(), (x,)).model, (x,), path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(np.asarray(found))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.kthvalue(x, 2, 1).values,
        lambda x: torch.kthvalue(x, 5, -1, keepdim=True).values,
        lambda x: x.kthvalue(1).indices,
        lambda x: x.median(1).values,
        lambda x: torch.median(x, -1, keepdim=True).values,
        lambda x: x.median(2).indices,
        torch.median,
        lambda x: torch.hypot(x, x.roll(1, 1)),
        lambda x: torch.hypot(x * 1e30, x * 1e30),
        lambda x: torch.hypot(x * 0, x * 0),
    ],
)
def test_it_is_computed_as_in_pytorch(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    torch.testing.assert_close(computed(Computes(function), X, tmp_path), function(X))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[0, 0].argmax(),
        lambda x: x[0, 0].argmin(0, keepdim=True),
        lambda x: x[0, 0].softmax(0),
        lambda x: x[0, 0].log_softmax(-1) + 1,
        lambda x: x[0, 0].max(0).indices,
    ],
)
def test_one_dimension_is_computed_as_a_row(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    torch.testing.assert_close(computed(Computes(function), X, tmp_path), function(X))
    assert not check_onnx(tmp_path / "model.onnx").errors
    (output,) = onnx.load(tmp_path / "model.onnx").graph.output
    assert output.name == "output"


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (2, 2), (2, 1)])
def test_what_is_written_is_broadcast(batch: int, rows: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Writes(rows=rows).eval(), X[:batch].contiguous()
    wanted = model(x)
    assert len(wanted[:, 1:].unique()) > 1
    torch.testing.assert_close(computed(model, x, tmp_path), wanted)


def test_a_target_may_take_vectors(tmp_path: Path) -> None:
    target = replace(TENSORRT, lowering=replace(TENSORRT.lowering, vectors_as_rows=False))
    model = transform(Computes(lambda x: x[0, 0].softmax(0)).eval(), (X,), target=target).model
    export_onnx(model, (X,), tmp_path / "model.onnx", target=target)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert "Unsqueeze" not in [one.op_type for one in nodes]


def test_the_median_of_any_number_of_values_is_refused(tmp_path: Path) -> None:
    result = transform(Computes(torch.median).eval(), (X,))
    with pytest.raises(ExportError, match="fix its size"):
        export_onnx(result, (X,), tmp_path / "model.onnx", dynamic_batch=True)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
        (lambda x: torch.mode(x)[0], "aten.mode"),
        (torch.lgamma, "prims.lgamma"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(
    function: Callable[[Tensor], Tensor], name: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=f"no translation of {name} to ONNX"):
        computed(Computes(function), X, tmp_path)
