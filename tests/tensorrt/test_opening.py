"""A file is read, inferred and indexed once for all that look at it."""

from pathlib import Path

import pytest

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model import OnnxFile, opening
from embedl_deploy.tensorrt import check_onnx, explain_onnx
from tests.tensorrt.rules.models import IMAGE, Text

NET = """
    a = QDQ(x, s)
    w = DQ(W_16x16x3x3)
    c = Conv(a, w) <pads=[1, 1, 1, 1]>
    y = Relu(c)
"""


@pytest.fixture
def inferred(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of graphs that were made."""
    made: list[Path] = []
    graph_of = opening.graph_of

    def counted(model: object, folder: Path) -> object:
        made.append(folder)
        return graph_of(model, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "graph_of", counted)
    return made


@pytest.mark.parametrize(("batch", "graphs"), [(1, 1), (None, 3)], ids=["fixed", "open"])
def test_what_was_opened_gives_what_the_path_gives(
    batch: int | None, graphs: int, tmp_path: Path, inferred: list[Path]
) -> None:
    """With an open batch `explain_onnx` assumes a size, and `check_onnx` does not."""
    path = Text(NET, inputs=(("x", (batch, *IMAGE[1:])),)).save(tmp_path)
    file = OnnxFile.open(path)
    opened = explain_onnx(file), check_onnx(file), explain_onnx(file).assumed
    assert len(inferred) == graphs
    assert opened == (explain_onnx(path), check_onnx(path), explain_onnx(path).assumed)
    assert bool(opened[0].assumed) is (batch is None)


def test_what_is_open_stays_open() -> None:
    file = OnnxFile(Path("net.onnx"), Text(NET).proto())
    assert OnnxFile.open(file) is file
    assert file.with_shapes({}) is file
    assert file.with_shapes({"x": IMAGE}) is file


def test_an_error_names_the_file() -> None:
    proto = Text(NET).proto()
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(CheckError, match=r"'net.onnx' is not sound: .*nowhere"):
        check_onnx(OnnxFile(Path("net.onnx"), proto))
