"""The demo: from a trained model to a checked INT8 file, and what it says about it."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from embedl_deploy import Result
from embedl_deploy.errors import BuildError
from embedl_deploy.export import OnnxModel, Parity
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import Compilation, Fate, Product
from examples.demo import __main__ as demo
from examples.demo.bars import progress_bars
from examples.demo.figures import ALLOWED_LOSS, NOTES, Row, table, verdict
from examples.demo.subjects import Subject, subjects
from examples.digits.data import Digits, calibration_batches, digits
from examples.digits.models import MODELS
from examples.digits.train import Recipe, accuracy, trained

QUICK = Recipe(epochs=3, max_shift=1.0)


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def calibrated_with() -> list[Tensor]:
    return []


@pytest.fixture(scope="module")
def row(
    data: Digits,
    folder: Path,
    calibrated_with: list[Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Row:
    """The row of a quickly trained model; the calibration data that `quantize` got is noted."""
    cache = tmp_path_factory.mktemp("cache")
    subject = Subject(
        QUICK.epochs,
        lambda told, _fresh: trained("residual", cache, recipe=QUICK, progress=told),
        calibration_batches(data),
        data.test_images.split(90),
        partial(accuracy, images=data.test_images, labels=data.test_labels),
    )

    def noting(result: Result, batches: Iterator[Tensor]) -> torch.fx.GraphModule:
        kept = list(batches)
        calibrated_with.extend(kept)
        return quantize(result, kept)

    with pytest.MonkeyPatch.context() as patch, progress_bars(Console(quiet=True)) as bars:
        patch.setattr(demo, "quantize", noting)
        patch.setattr(demo, "compiled", lambda *_: None)
        return demo.deployed("residual", subject, folder, bars, fresh=False)


def test_int8_is_as_accurate_as_float(row: Row) -> None:
    assert row.float_score > 0.9
    assert abs(row.float_score - row.int8_score) <= ALLOWED_LOSS


def test_the_figures_are_those_of_the_files(row: Row, folder: Path) -> None:
    assert row.float_size == (folder / "residual-float32.onnx").stat().st_size
    assert row.int8_size == (folder / "residual-int8.onnx").stat().st_size
    assert 0.2 * row.float_size < row.int8_size < 0.35 * row.float_size


def test_there_is_a_pair_where_the_architecture_asks_for_one(row: Row) -> None:
    # The inputs of the stem, of both convolutions of 6 blocks and of the pooling; its output, which
    # is the classifier's input; the outputs of 2 downsampling shortcuts. Others are among them.
    assert len(row.parity.stubs) == 1 + 12 + 1 + 1 + 2


def test_the_file_computes_what_was_simulated(row: Row, data: Digits) -> None:
    assert row.parity.only_ties
    assert row.parity.values == len(data.test_images) * 10


@pytest.mark.usefixtures("row")
def test_the_file_runs_on_any_batch_size(folder: Path, data: Digits) -> None:
    runtime = OnnxModel(folder / "residual-int8.onnx")
    singly = torch.cat([runtime(image)["output"] for image in data.test_images[:3].split(1)])
    # Sums in another order may turn a tie, so outputs need not be the same to the last digit.
    assert torch.equal(runtime(data.test_images[:3])["output"].argmax(1), singly.argmax(1))


@pytest.mark.usefixtures("row")
def test_calibration_sees_training_images_alone(
    data: Digits, calibrated_with: list[Tensor]
) -> None:
    images = torch.cat(calibrated_with)
    assert len(images) == 256
    assert rows_of(images) <= rows_of(data.train_images)
    assert not rows_of(images) & rows_of(data.test_images)


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.usefixtures("row")
def test_a_page_is_written(folder: Path) -> None:
    page = (folder / "residual.html").read_text(encoding="utf-8")
    assert "residual-int8.onnx" in page
    assert "Score of the INT8 file" in page


def test_the_detector_and_the_digits_have_data_held_out() -> None:
    found = subjects()
    assert list(found) == [*MODELS, "detector"]
    for subject in found.values():
        test = rows_of(torch.cat(subject.test))
        assert len(test) >= 300
        assert not test & rows_of(torch.cat(subject.calibration))


def a_row(*, int8_score: float = 1.0, rounding_difference: float = 0.0) -> Row:
    parity = Parity(largest_output=1.0, rounding_difference=rounding_difference)
    return Row(1.0, int8_score, 12_345_678, 1_234_567, parity)


def a_compilation(*, built: bool) -> Compilation:
    int8 = Product("conv", "Conv", "INT8", "INT8", Fate.KEPT, ("layer",), 1)
    lost = dataclasses.replace(int8, computed="FP32", fate=Fate.LOST)
    return Compilation(
        Path("m.onnx"), "RTX", "", None, int(built), 1.0, (), (), (int8, int8, lost), ()
    )


def test_the_table_fits_in_80_columns() -> None:
    row = dataclasses.replace(a_row(), compilation=a_compilation(built=True))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table({"transformer": row}))
    lines = captured.get().splitlines()
    expected = "transformer 100.00% 100.00% 12,346 1,235 0.00 0.0e+00 2 of 3"
    assert lines[-1].split() == expected.split()
    assert "…" not in captured.get()
    assert len(lines) == 4


def test_the_notes_fit_in_80_columns() -> None:
    assert max(map(len, NOTES.splitlines())) <= 80


def test_without_the_compiler_the_demo_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object, **_options: object) -> Compilation:
        raise BuildError("TensorRT for RTX is not installed")

    monkeypatch.setattr(demo, "compile_onnx", missing)
    assert demo.compiled(Path("model.onnx"), torch.zeros(1)) is None
    assert a_row().compiled == "not here"


def test_good_rows_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"mobile": a_row(int8_score=0.9901)}) == 0
    assert capsys.readouterr().err == ""


def test_more_than_one_point_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"residual": a_row(), "transformer": a_row(int8_score=0.98)}) == 1
    assert capsys.readouterr().err == (
        "transformer: the INT8 score is 98.00%, more than one point below float (100.00%)\n"
    )


def test_a_file_that_computes_something_else_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verdict({"mobile": a_row(rounding_difference=0.5)}) == 1
    assert "mobile: the file does not compute what was simulated" in capsys.readouterr().err


def test_a_file_that_the_compiler_refuses_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Compilation, "summary", property(lambda _: "RTX built no engine"))
    row = dataclasses.replace(a_row(), compilation=a_compilation(built=False))
    assert row.compiled == "refused"
    assert verdict({"mobile": row}) == 1
    assert "mobile: the compiler refuses the file: RTX built no engine" in capsys.readouterr().err


def test_the_command_writes_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool]] = []

    def noted(name: str, *_args: object, fresh: bool) -> Row:
        asked.append((name, fresh))
        return a_row()

    monkeypatch.setattr(demo, "deployed", noted)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert demo.main(["--fresh", "--output", str(tmp_path / "a" / "b")]) == 0
    assert asked == [(name, True) for name in ("residual", "transformer", "mobile", "detector")]
    assert (tmp_path / "a" / "b").is_dir()
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'a' / 'b' / 'detector.html'}\n")


def test_a_file_for_the_output_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--output", str(tmp_path / "file")])
    assert "--output takes a folder" in capsys.readouterr().err
