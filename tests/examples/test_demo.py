"""The demo: from a trained model to a checked INT8 file, and what it says about it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from embedl_deploy import Result
from embedl_deploy.export import OnnxModel, Parity
from embedl_deploy.quantize import quantize
from examples.digits import demo
from examples.digits.bars import progress_bars
from examples.digits.data import Digits, digits
from examples.digits.figures import ALLOWED_LOSS, NOTES, Row, table, verdict
from examples.digits.train import Recipe, trained

QUICK = Recipe(epochs=3, max_shift=1.0)


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return trained("residual", tmp_path_factory.mktemp("cache"), recipe=QUICK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def calibrated_with() -> list[Tensor]:
    return []


@pytest.fixture(scope="module")
def row(model: nn.Module, data: Digits, folder: Path, calibrated_with: list[Tensor]) -> Row:
    """The row of a quickly trained model; the calibration data that `quantize` got is noted."""

    def noting(result: Result, batches: Iterator[Tensor]) -> torch.fx.GraphModule:
        kept = list(batches)
        calibrated_with.extend(kept)
        return quantize(result, kept)

    with pytest.MonkeyPatch.context() as patch, progress_bars(Console(quiet=True)) as bars:
        patch.setattr(demo, "quantize", noting)
        return demo.deployed(model, "residual", data, folder, bars)


def test_int8_is_as_accurate_as_float(row: Row) -> None:
    assert row.float_accuracy > 0.9
    assert abs(row.float_accuracy - row.int8_accuracy) <= ALLOWED_LOSS


def test_the_figures_are_those_of_the_files(row: Row, folder: Path) -> None:
    assert row.float_size == (folder / "residual-float32.onnx").stat().st_size
    assert row.int8_size == (folder / "residual-int8.onnx").stat().st_size
    assert 0.2 * row.float_size < row.int8_size < 0.35 * row.float_size


def test_the_counts_follow_from_the_architecture(row: Row) -> None:
    # 15 convolutions, the global pooling and the classifier.
    assert row.fused == 17
    # The inputs of the stem, of both convolutions of 6 blocks and of the pooling; its output, which
    # is the classifier's input; the outputs of 2 downsampling shortcuts. Others are among them.
    assert row.pairs == 1 + 12 + 1 + 1 + 2
    assert row.pairs == len(row.parity.stubs)


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


def a_row(*, int8_accuracy: float = 1.0, rounding_difference: float = 0.0) -> Row:
    parity = Parity(largest_output=1.0, rounding_difference=rounding_difference)
    return Row(1.0, int8_accuracy, 12_345_678, 1_234_567, 123, 123, parity)


def test_the_table_fits_in_100_columns() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table({"transformer": a_row()}, 540))
    cells = captured.get().splitlines()[-1].split()
    expected = "transformer 100.00% 100.00% 12,346 kB 1,235 kB 123 123 0.00 steps 0.0e+00"
    assert cells == expected.split()


def test_the_notes_fit_in_100_columns() -> None:
    assert max(map(len, NOTES.splitlines())) <= 100


def test_good_rows_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"mobile": a_row(int8_accuracy=0.9901)}) == 0
    assert capsys.readouterr().err == ""


def test_more_than_one_point_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"residual": a_row(), "transformer": a_row(int8_accuracy=0.98)}) == 1
    assert capsys.readouterr().err == (
        "transformer: INT8 accuracy is 98.00%, more than one point below float (100.00%)\n"
    )


def test_a_file_that_computes_something_else_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verdict({"mobile": a_row(rounding_difference=0.5)}) == 1
    assert "mobile: the file does not compute what was simulated" in capsys.readouterr().err


def test_the_command_writes_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool]] = []

    def untrained(name: str, *_args: object, fresh: bool) -> nn.Module:
        asked.append((name, fresh))
        return nn.Identity()

    monkeypatch.setattr(demo, "trained_with_bar", untrained)
    monkeypatch.setattr(demo, "deployed", lambda *_: a_row())
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert demo.main(["--fresh", "--output", str(tmp_path / "a" / "b")]) == 0
    assert asked == [("residual", True), ("transformer", True), ("mobile", True)]
    assert (tmp_path / "a" / "b").is_dir()
    assert "The ONNX files are in" in capsys.readouterr().out


def test_a_file_for_the_output_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--output", str(tmp_path / "file")])
    assert "--output takes a folder" in capsys.readouterr().err
