"""The file of `deploy`, and the float16 file of the same model, through the compiler."""

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
from embedl_deploy.report.compilation import compilation_figures
from embedl_deploy.report.words import word_for
from embedl_deploy.tensorrt import Compilation, ShapeRange


@dataclass(frozen=True)
class Beside:
    """Two files of one model, compiled for one GPU.

    Attributes:
        word: What the file that is written is, such as INT8.
        quantized: It.
        half: The float16 file of the same model, not quantized.
    """

    word: str
    quantized: Compilation
    half: Compilation

    @property
    def verdict(self) -> str:
        """Whether quantization pays, in words."""
        times = [one.estimate() if one.gpu else None for one in (self.quantized, self.half)]
        quantized, half = (one.microseconds if one else None for one in times)
        if quantized is None or half is None:
            return "which one is faster is not estimated"
        gpu = self.quantized.gpu
        if quantized < half:
            share = f"{quantized / half:.0%} of the time on {gpu}"
            return f"the {self.word} file takes {share}, by this estimate"
        return (
            f"{self.word} does not pay on {gpu}: {quantized:.0f} µs against {half:.0f} µs in "
            "float16, by this estimate"
        )

    @property
    def rows(self) -> list[tuple[str, str]]:
        """For the table: both files, and the verdict."""
        made = self.quantized
        lost = f"; {made.lost[0].node}: {made.lost[0].reason}" if made.lost else ""
        files = ((self.word, self.quantized), ("float16", self.half))
        figures = [f"{name}: {_figures(one)}" for name, one in files]
        return [
            ("Compiled", f"{made.summary}{lost}"),
            ("Beside", "; ".join((*figures, self.verdict))),
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "quantized": self.quantized.to_dict(),
            "float16": self.half.to_dict(),
            "verdict": self.verdict,
        }


def compile_beside(
    file: OnnxFile, made: Prepared, gpu: str | None, options: dict[str, Any], batch: int
) -> Beside:
    """Compile a file, and the float16 file of the model that it was made of.

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
    quantized = _compiled(build, file, gpu, batch)
    if not quantized.built:
        raise VerificationError(f"the file was not written: {quantized.summary}")
    with TemporaryDirectory() as folder:
        half = Path(folder) / "float16.onnx"
        wanted = {**options, "precision": "float16"}
        export_onnx(made.result.model, made.examples, half, **wanted)
        return Beside(word_for(file), quantized, _compiled(build, OnnxFile.open(half), gpu, batch))


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
