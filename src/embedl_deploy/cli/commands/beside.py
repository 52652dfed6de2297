"""The file of `deploy` through the compiler, beside the float16 file of the same model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedl_deploy.cli.commands.prepare import Prepared
from embedl_deploy.errors import VerificationError
from embedl_deploy.export import export_onnx
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.onnx_model.inputs import open_inputs
from embedl_deploy.report.compilation import compilation_figures, estimate_line
from embedl_deploy.report.words import numbers_of, word_for
from embedl_deploy.tensorrt import Compilation, ShapeRange


@dataclass(frozen=True)
class Beside:
    """A file, and the float16 file of its model where that is another, compiled for one GPU.

    Attributes:
        word: What the file is, such as INT8.
        written: The file.
        half: The float16 file; None where nothing is quantized.
    """

    word: str
    written: Compilation
    half: Compilation | None

    @property
    def verdict(self) -> str | None:
        """Whether quantization pays, in words; None where nothing is quantized."""
        if self.half is None:
            return None
        times = [one.estimate() if one.gpu else None for one in (self.written, self.half)]
        quantized, half = (one.microseconds if one else None for one in times)
        if quantized is None or half is None:
            return "which one is faster is not estimated"
        gpu = self.written.gpu
        if quantized < half:
            share = f"{quantized / half:.0%} of the time on {gpu}"
            return f"the {self.word} file takes {share}, by this estimate"
        return (
            f"{self.word} does not pay on {gpu}: {quantized:.0f} µs against {half:.0f} µs in "
            "float16, by this estimate"
        )

    @property
    def rows(self) -> list[tuple[str, str]]:
        """For the table: the files, and the verdict."""
        made = self.written
        lost = f"; {made.lost[0].node}: {made.lost[0].reason}" if made.lost else ""
        said = f"{made.summary}{lost}"
        if self.half is None:
            return [("Compiled", "; ".join(filter(None, (said, estimate_line(made)))))]
        files = ((self.word, made), ("float16", self.half))
        figures = [f"{name}: {_figures(one)}" for name, one in files]
        return [("Compiled", said), ("Beside", f"{'; '.join(figures)}; {self.verdict}")]

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; a float16 file that was compiled for comparison alone has no path."""
        written, half = self.written.to_dict(), self.half
        return {
            "quantized": None if half is None else written,
            "float16": written if half is None else half.to_dict() | {"path": None},
            "verdict": self.verdict,
        }


def compile_beside(
    file: OnnxFile, made: Prepared, gpu: str | None, options: dict[str, Any], batch: int
) -> Beside:
    """Compile a file and, where it is quantized, the float16 file of its model.

    Args:
        file: The file.
        made: The model.
        gpu: As `compile_onnx` takes it.
        options: That the file was exported with.
        batch: Where the file takes any.

    Raises:
        BuildError: There is no compiler, or it does not build for this GPU.
        VerificationError: The compiler does not take the file.
    """
    build = made.result.target.build
    written = _compiled(build, file, gpu, batch)
    if not written.built:
        raise VerificationError(f"the file was not written: {written.summary}")
    word = word_for(file)
    if not numbers_of(file):
        return Beside(word, written, None)
    with TemporaryDirectory() as folder:
        half = Path(folder) / "float16.onnx"
        wanted = {**options, "precision": "float16"}
        export_onnx(made.result.model, made.examples, half, **wanted)
        return Beside(word, written, _compiled(build, OnnxFile.open(half), gpu, batch))


def _compiled(
    build: Callable[..., Compilation], file: OnnxFile, gpu: str | None, batch: int
) -> Compilation:
    ranges = {
        name: ShapeRange.exactly([batch if size is None else size for size in shape])
        for name, shape in open_inputs(file.model.graph).items()
    }
    return build(file, gpu, ranges=ranges)


def _figures(compilation: Compilation) -> str:
    kernels, moved, *_, time = compilation_figures(compilation)
    return f"{kernels} kernels, {moved} MB moved" + (f", {time}" if time else "")
