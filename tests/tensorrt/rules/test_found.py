"""What comparing with the compiler has found stays said."""

from pathlib import Path

import pytest

from embedl_deploy.tensorrt import check_onnx, explain_onnx
from tests.tensorrt.rules.found_cases import FOUND


@pytest.mark.parametrize("name", FOUND)
def test_it_is_said(name: str, tmp_path: Path) -> None:
    case = FOUND[name]
    path = case.text.save(tmp_path)
    report = check_onnx(path)
    assert {one.rule for one in report.errors} == case.errors
    assert case.warnings <= {one.rule for one in report.warnings}
    kernels = explain_onnx(path).kernels
    types = {node: one.dtype for one in kernels for node in one.nodes}
    assert [types[node] for node, _ in case.types] == [dtype for _, dtype in case.types]
