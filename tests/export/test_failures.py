"""What goes wrong is said in one sentence, and leaves no file half-written."""

import builtins
import logging
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import DeployError, ExportError, MissingExtraError
from embedl_deploy.export import OnnxModel, export_onnx, onnx_file, verify_onnx
from embedl_deploy.export.program import program
from embedl_deploy.quantize import insert_qdq, quantize

EXAMPLE = (torch.ones(2, 4),)


@cache
def model() -> fx.GraphModule:
    torch.manual_seed(0)
    return quantize(transform(nn.Sequential(nn.Linear(4, 6), nn.ReLU())), [torch.randn(3, 4)])


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A file that is there already; afterwards it is whole, and alone in its folder."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    yield path
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


def raising(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_checker_that_fails_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.checker, "check_model", raising(ValueError("bad node\nand more")))
    with pytest.raises(ExportError, match=r"is not valid ONNX: ValueError: bad node$"):
        export_onnx(model(), EXAMPLE, old)


def test_an_exporter_that_fails_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("outside")
    error.__cause__ = KeyError("no such operator")
    monkeypatch.setattr(torch.onnx, "export", raising(error))
    with pytest.raises(ExportError, match="express the model: KeyError: 'no such operat"):
        export_onnx(model(), EXAMPLE, old)


def test_a_full_disk_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_ir.save", raising(OSError(28, "No space left on device")))
    with pytest.raises(ExportError, match=r"model\.onnx': No space left"):
        export_onnx(model(), EXAMPLE, old)


def test_a_stop_from_the_keyboard_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        export_onnx(model(), EXAMPLE, old)


def test_a_move_that_fails_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", raising(PermissionError(13, "Permission denied")))
    with pytest.raises(ExportError, match="Permission denied"):
        export_onnx(model(), EXAMPLE, old)


def test_an_uncalibrated_model_leaves_the_old_file(old: Path) -> None:
    open_ = insert_qdq(transform(nn.Linear(4, 2)))
    with pytest.raises(ExportError, match=r"1 of 1 stubs have no scale.*run calibrate\(\)"):
        export_onnx(open_, EXAMPLE, old)


class Sorting(nn.Module):
    """What the exporter does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.mT).real


def test_an_operation_that_onnx_has_not_is_said(old: Path) -> None:
    with pytest.raises(ExportError, match=r"express the model: .*linalg_eig"):
        export_onnx(transform(Sorting()).model, EXAMPLE, old)


@pytest.mark.parametrize("args", [(), (torch.ones(2, 5),), (torch.ones(2, 4), torch.ones(2, 4))])
def test_example_inputs_that_do_not_fit_are_said(args: tuple[Tensor, ...], old: Path) -> None:
    with pytest.raises(ExportError, match="express the model"):
        export_onnx(model(), args, old)


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    export_onnx(model(), EXAMPLE, path)
    assert verify_onnx(path, model(), [EXAMPLE]).only_ties
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="none': No such file"):
        export_onnx(model(), EXAMPLE, tmp_path / "none" / "model.onnx")
    assert not (tmp_path / "none").exists()


def test_a_path_that_is_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a folder"):
        export_onnx(model(), EXAMPLE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", raising(PermissionError(13, "Permission denied")))
    with pytest.raises(ExportError, match=r"folder .*: Permission denied"):
        export_onnx(model(), EXAMPLE, tmp_path / "model.onnx")


def test_a_model_that_was_not_transformed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes a transformed model, not a Linear"):
        export_onnx(nn.Linear(4, 2), EXAMPLE, tmp_path / "model.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnx_ir", "onnxruntime"])
def test_a_missing_package_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_onnx(model(), EXAMPLE, tmp_path / "model.onnx")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", without)
    message = f"needs the package '{package}', .* pip install 'embedl_deploy\\[onnx\\]'"
    if package != "onnxruntime":
        with pytest.raises(MissingExtraError, match=message):
            export_onnx(model(), EXAMPLE, path)
    if package in {"onnxruntime", "onnx_ir"}:
        with pytest.raises(MissingExtraError, match=message):
            verify_onnx(path, model(), [EXAMPLE])
    if package == "onnxruntime":
        with pytest.raises(DeployError, match=message):
            OnnxModel(path)


@pytest.mark.parametrize("name", ["with spaces.onnx", "größer 数 🙂.onnx", "no_suffix"])
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner"
    folder.mkdir()
    path = export_onnx(model(), EXAMPLE, str(folder / name))
    assert path == folder / name
    assert [one.name for one in folder.iterdir()] == [name]
    assert verify_onnx(path, model(), [EXAMPLE]).only_ties


def test_a_relative_path_is_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_onnx(model(), EXAMPLE, "model.onnx") == Path("model.onnx")
    assert (tmp_path / "model.onnx").is_file()


def test_a_large_model_puts_its_weights_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_EXTERNAL_BYTES", 10)
    large = quantize(transform(nn.Linear(64, 64)), [torch.randn(3, 64)])
    example = (torch.randn(2, 64),)
    (tmp_path / "out").mkdir()
    path = export_onnx(large, example, tmp_path / "out" / "große Datei.onnx")
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["große Datei.onnx", "große Datei.onnx.data"]
    assert path.with_name(names[1]).stat().st_size >= 64 * 64
    assert path.stat().st_size < 64 * 64
    elsewhere = tmp_path / "moved"
    path.parent.rename(elsewhere)
    monkeypatch.chdir(tmp_path.parent)
    onnx.checker.check_model(str(elsewhere / path.name), full_check=True)
    assert verify_onnx(elsewhere / path.name, large, [example]).only_ties


def test_a_failure_leaves_both_files_of_a_large_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_EXTERNAL_BYTES", 10)
    path = export_onnx(model(), EXAMPLE, tmp_path / "model.onnx")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert len(before) == 2
    monkeypatch.setattr(onnx.checker, "check_model", raising(ValueError("bad")))
    with pytest.raises(ExportError):
        export_onnx(model(), EXAMPLE, path)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_what_the_exporter_tries_in_vain_is_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export = torch.onnx.export
    logger = logging.getLogger("onnxscript.optimizer._constant_folding")

    def telling(*args: Any, **kwargs: Any) -> Any:
        logger.warning("Evaluation failed: %s", "cannot reshape array of size 3")
        logger.warning("something else")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", telling)
    program(nn.ReLU().eval(), (torch.zeros(1),), 21, None, dynamic_batch=False)
    logger.warning("Evaluation failed: later, and by somebody else")
    said = [one.getMessage() for one in caplog.records if one.name == logger.name]
    assert said == ["something else", "Evaluation failed: later, and by somebody else"]
