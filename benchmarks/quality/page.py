"""The page: how each bar stands, then every file, the tools in order of their noise."""

from collections.abc import Iterable, Sequence

from benchmarks.quality import ours
from benchmarks.quality.models import MODELS
from benchmarks.quality.record import Results, Row, Trained

_HEAD = """\
# Quality

<!-- This page is written by `python -m benchmarks.quality` (`make bench-quality`). -->

How much accuracy 8-bit integers cost, beside other tools that quantize PyTorch or ONNX models.
TensorRT was not run; every file is run by ONNX Runtime on the CPU, operator by operator as the
file says.

"""

_HOW = """\
## How it was measured

Models of torchvision at 224², built from one seed. Weights are random: no network with trained
weights was within reach. No parameter is constant, so that no layer is silent, and batch norms
have the statistics of such images (`benchmarks/zoo/warmth.py`). An image is noise around a random
colour. Every tool calibrates with the same 16 images, one at a time. **dB**: signal to
quantization noise of the file's outputs on 16 other images, against the untouched model in eager
mode. **INT8**: share of the multiply-accumulates that `explain_onnx` predicts in INT8. A tool
that leaves more in floating point has less noise for less INT8. **Q**: quantized activations; of
them **unsigned** ones (no INT8 to TensorRT) and those whose zero-point is **shifted** from 0.
TensorRT takes neither: what has them is no symmetric INT8, and is left out of the comparison
above. **refused**: errors that `check_onnx` finds in the file for TensorRT 11.

Random weights are harder than trained ones where noise of early layers grows through the later
ones, and easier where training makes outliers. What a difference of a decibel means for the
accuracy of a trained network cannot be read from it.

The settings:

- `embedl_deploy-fast`: `quantize(transform(model, example), images)`. `-smooth`: with `smooth`
  before it. `-accurate`: with `recipe="accurate"`. `-float-head`: `-smooth`, and the classifier in
  floating point by `QuantConfig.skip`, where Model Optimizer leaves it too.
- `onnxruntime-symmetric`: `quantize_static` with symmetric activations and weights, one scale a
  channel; `-default`: as it comes, with shifted activations and one scale a weight.
- `nncf-symmetric`: `nncf.quantize` with activations forced to have a sign, which its hardware
  tables refuse; they were changed for it. `-transformer`: the same with the model type that its
  documentation asks for, which smooths activations. `-default`: as it comes, symmetric, without a
  sign where nothing is negative.
- `modelopt-symmetric`: `modelopt.onnx.quantization.quantize` with ranges of the largest
  magnitudes; `-entropy`: with its default ranges. The rest is in float32; its default is float16.
- `pt2e-symmetric`: PT2E with the quantizer of XNNPACK that torchao is tested with, activations
  symmetric; `-default`: with that of x86 (unsigned, shifted). The converted model was exported
  with `torch.onnx.export`.
"""


_TRAINED = """\
## Trained models

The three models of `examples/digits`, trained here on scikit-learn's handwritten digits. Top-1 on
540 scans held out (one of them is 0.19 points), of the model in floating point and of the
exported file as ONNX Runtime computes it.

| model | how | float | file | points lost | may lose | |
|---|---|---|---|---|---|---|
"""

_SUMMARY = """\
SQNR in dB on images that no tool has seen; the settings are explained below. Two files that differ
by 0.2 dB are equal here: so much changes where sums are added in another order. An empty cell was
not run.

- Where Model Optimizer has less noise than `fast`, most of it is the classifier, which it leaves in
  floating point: 0.02 to 0.05 % of the arithmetic, and 0.5 to 1.6 dB of the noise in `resnet50`,
  `convnext_tiny` and `swin_t`.
- `mobilenet_v3_large` and `efficientnet_b0` with random weights amplify every rounding until noise
  is as large as the signal, with every tool. Their figures rank no tool. With the parameters that
  torchvision initializes them with (`-initial`) the first is less extreme; there the other tools
  ran with their symmetric settings alone.
- Ranges of the largest magnitude have less noise than Model Optimizer's entropy, except in
  `convnext_tiny` (0.3 dB) and `vit_b_16` (0.4 dB).
- In `swin_t` the least noise of all is that of PT2E with x86's quantizer, 0.3 dB below ours; its
  integers are unsigned and shifted.
- `accurate` is judged by halves of the 16 images, each image alike; with all images together one
  that lay beyond the ranges of the others decided alone. Its rows were measured again with that;
  the other rows are older.
- In `vit_b_16` tools that quantize the softmax's result have far more noise; by default it stays in
  floating point here (`QuantConfig.attention`), 2 % of the arithmetic.
"""

_COLUMNS = """\
| file | dB | INT8 | Q | unsigned | shifted | refused |
|---|---|---|---|---|---|---|
"""


def page(results: Results) -> str:
    """All of it."""
    rows = list(results.rows.values())
    models = [model for model in MODELS if any(row.model == model for row in rows)]
    tables = [_files(model, [row for row in rows if row.model == model]) for model in models]
    trained = _trained(sorted(results.trained.values(), key=lambda row: (row.model, row.way)))
    return "".join((_HEAD, _summary(results, models), trained, _HOW, *tables, _versions(rows)))


def _summary(results: Results, models: Iterable[str]) -> str:
    """Where each model stands against the best symmetric file of another tool."""
    text = "| model | fast | smooth | accurate | float head | best other tool | |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for model in models:
        best, word = results.best_peer(model), ""
        own = [results.rows.get((model, setting)) for setting in ours.SETTINGS]
        known = [row.held_out for row in own if row is not None and row.symmetric]
        if best is not None and known:
            ahead = max(known) - best.held_out
            word = f"{abs(ahead):.1f} dB " + ("ahead" if ahead >= 0 else "**behind**")
        peer = f"{best.held_out:.1f} {best.setting}" if best is not None else ""
        text += f"| `{model}` | {' | '.join(map(_db, own))} | {peer} | {word} |\n"
    return f"## Against other tools\n\n{_SUMMARY}\n{text}\n"


def _trained(rows: Sequence[Trained]) -> str:
    """Top-1 of what was trained."""
    if not rows:
        return ""
    text = _TRAINED
    for row in rows:
        word = "met" if row.met else "**not met**"
        text += (
            f"| {row.model} | {row.way} | {row.before:.2%} | {row.after:.2%} | {row.loss:+.2f} | "
            f"{row.allowed:g} | {word} |\n"
        )
    return text + "\n"


def _files(model: str, rows: Sequence[Row]) -> str:
    """Every file of a model, those with the least noise on top."""
    text = f"\n## {model}\n\n{_COLUMNS}"
    for row in sorted(rows, key=lambda row: row.held_out, reverse=True):
        if row.error:
            text += f"| {row.setting} | failed | | | | | |\n"
            continue
        name = f"**{row.setting}**" if row.ours else row.setting
        text += (
            f"| {name} | {row.held_out:.1f} | {row.share:.1%} | "
            f"{row.pairs} | {row.unsigned} | {row.shifted} | {row.refused} |\n"
        )
    failed = [f"- {row.setting}: {row.error}\n" for row in rows if row.error]
    return text + ("\nWhat failed:\n\n" + "".join(failed) if failed else "")


def _versions(rows: Iterable[Row]) -> str:
    names = sorted({row.version for row in rows if row.version})
    return f"\n## Versions\n\n{', '.join(names)}.\n"


def _db(row: Row | None) -> str:
    return "" if row is None else "failed" if row.error else f"{row.held_out:.1f}"
