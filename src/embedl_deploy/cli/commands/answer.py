"""The file against float: what became of the answers, which is the first that one asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from embedl_deploy.cli.building import find_object
from embedl_deploy.cli.commands.order import Judged
from embedl_deploy.cli.data import Normalization, Split
from embedl_deploy.cli.output import Steps
from embedl_deploy.errors import LoadError
from embedl_deploy.export import Evaluation, Parity, compare_onnx, evaluate_onnx
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.parity import answers_dict
from embedl_deploy.report.words import numbers_of, word_for
from embedl_deploy.table import counted

LEAST_DB = 10.0
"""Signal to noise at the outputs below which a file is of no use, where nothing else is said."""

_SHOWN = 4
"""Outputs and layers that get a figure of their own on the terminal."""

_MOST = 0.9
"""Of the parameters; the norms of a fresh model are ones and zeros."""


@dataclass(frozen=True)
class Answers:
    """How a file answers, beside the model in floating point.

    Attributes:
        word: What the file is, such as INT8.
        quantized: Whether it is.
        parity: From `compare_onnx`.
        evaluation: By the user's function; None without one.
        split: Which samples these were.
    """

    word: str
    quantized: bool
    parity: Parity
    evaluation: Evaluation | None
    split: Split

    @property
    def samples(self) -> str:
        """Which samples, in words."""
        samples = counted(self.parity.samples, "sample")
        if not self.quantized:
            return samples
        if self.split.seen:
            return f"{samples} that calibrated too (too few to hold some out)"
        return f"{samples} held out from calibration"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """For the table."""
        parity = self.parity
        outputs = sorted(parity.outputs.items(), key=lambda one: one[1].sqnr_db)
        alone = len(outputs) < 2
        least = parity.sqnr_db if alone else outputs[0][1].sqnr_db
        where = "the outputs" if alone else f"{outputs[0][0]}, the worst of {len(outputs)} outputs"
        title = f"{self.word} against float"
        figures = [(title, f"{least:.1f} dB at {where}; {self.samples}")]
        figures += [("", _at(name, one, alone=alone)) for name, one in outputs[:_SHOWN]]
        if more := len(outputs[_SHOWN:]):
            figures.append(("", f"and {more} more with less noise; --json has all"))
        if hidden := self._hidden():
            said = ", ".join(f"{path} {one.sqnr_db:.1f} dB" for path, one in hidden[:_SHOWN])
            figures.append(("Before decoding", f"{said}: the last layers before the outputs"))
        figures += [("Order", one.said(name)) for name, one in parity.orders.items()]
        if parity.accuracy.samples:
            figures.append(("Accuracy", str(parity.accuracy)))
        if self.evaluation is not None:
            figures.append(("Evaluated", str(self.evaluation)))
        return figures

    def _hidden(self) -> list[Any]:
        """Layers that are further off than the outputs made of them, the worst first."""
        outputs = self.parity.outputs
        found = [
            (path, one)
            for path, one in self.parity.products.items()
            if one.sqnr_db < min(outputs[name].sqnr_db for name in one.outputs) - 1
        ]
        return sorted(found, key=lambda one: one[1].sqnr_db)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"held_out": not self.split.seen, **answers_dict(self.parity, self.evaluation)}


def answers(
    file: OnnxFile, model: nn.Module, order: Judged, split: Split, steps: Steps
) -> Answers | None:
    """Compare a file with a model in floating point; None where no sample is to judge it.

    Raises:
        VerificationError: The file cannot be run, or does not go with the model.
        CheckError: It has no sound graph.
        LoadError: The function that evaluates is not there.
    """
    if not order.held:
        return None
    judge = None if order.evaluate is None else find_object(order.evaluate)
    if judge is not None and not callable(judge):
        raise LoadError(f"'{order.evaluate}' cannot be called: name a function")
    with steps.step("Judging") as progress:
        parity = compare_onnx(file.path, model, split.held_out, labelled=True, progress=progress)
        evaluation = None if judge is None else evaluate_onnx(file.path, model, judge)
    return Answers(word_for(file), bool(numbers_of(file)), parity, evaluation, split)


def data_dict(
    source: str, split: Split, samples: int | None, how: Normalization | None
) -> dict[str, Any]:
    """How data were read, for JSON and the file's manifest."""
    resized = "scaled to cover the shape, cut at the centre" if Path(source).is_dir() else None
    return {
        "source": source,
        "calibration_samples": samples,
        "held_out": not split.seen,
        "labels": split.labels or None,
        "mean": None if how is None else list(how.mean),
        "std": None if how is None else list(how.std),
        "resized": resized,
        "seed": 0,
    }


def random_said(share: float | None) -> list[tuple[str, str]]:
    """A loud word where weights are random."""
    if not share:
        return []
    which = "RANDOM" if share > _MOST else f"{share:.0%} of them RANDOM"
    return [("Weights", f"{which}: no figure says anything of a trained one; --weights loads it")]


def _at(name: str, one: Any, *, alone: bool) -> str:
    where = "" if alone else f"{name} {one.sqnr_db:.1f} dB, "
    if one.rows:
        return f"{where}top-1 agrees in {one.agreement:.1%} ({one.same_top} of {one.rows})"
    return f"{where}differs by at most {one.relative:.2%} of the largest value"
