"""Weighted operators whose sizes have no fast kernel."""

from collections.abc import Iterator
from math import prod

from embedl_deploy.onnx_model.dtypes import BLOCKED, FP8
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    View,
    bare,
    channels,
    kernel,
    stored_type,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Unknown


def _grouped(view: View) -> Iterator[Outcome]:
    for node in view.quantized:
        group = node.number("group", 1) if node.op in CONVOLUTIONS else 1
        found = channels(node)
        if group > 1:
            kind = "depthwise" if found and found[0] == group else "grouped"
            yield Fault(f"a {kind} convolution is quantized", (node,))


P10 = Rule(
    "P10",
    Severity.WARNING,
    "depthwise and grouped convolutions are not quantized",
    why="On some GPUs there is no INT8 kernel, and the build fails; on others it is slower than "
    "FP16. Contested: the Guide fuses a separable pair only if both are INT8. TensorRT for RTX "
    "computes it in INT8, and pads the input of a depthwise one to four times its channels.",
    source="TRT#4529, TRT#4060, TRT#3385; TensorRT for RTX 1.7.1",
    remedy="Leave them in floating point (TENSORRT_MIXED_PRECISION_PATTERNS), or measure.",
    check=_grouped,
)


def _small(view: View) -> Iterator[Outcome]:
    for node in view.quantized:
        if node.op not in CONVOLUTIONS or _kind(node) == FP8:
            continue
        found = channels(node)
        if found is None:
            yield Unknown("the shape of the weight is not known", (node,))
        elif not _is_large(node, *found):
            what = f"it has {found[0]} inputs and {found[1]} outputs"
            yield Fault(what, (node,))


def _is_large(node: Node, inputs: int, outputs: int, group: int) -> bool:
    window = kernel(node)
    if min(inputs, outputs) >= 16 or (group > 1 and group == inputs):
        return True
    if group > 1:
        return outputs % 8 == 0 and all(size >= 3 for size in window)
    multiple = outputs % 8 == 0 or inputs % 8 == 0
    wide = max(inputs, outputs) >= 16 or _is_stem(node)
    return multiple and wide and len(set(window)) == 1


def _is_stem(node: Node) -> bool:
    before, _ = bare(node.first)
    return before is not None and before.is_input


def _kind(node: Node) -> str:
    """The quantized type of a weight; empty without one."""
    found = weight_quantizer(node)
    return stored_type(found) if found is not None else ""


P11 = Rule(
    "P11",
    Severity.WARNING,
    "quantized convolutions have 16 channels or more at both sides",
    why="INT8 kernels of smaller ones are slower than FP16. NVIDIA's tool leaves them out, but for "
    "square windows with a multiple of 8 channels at one side, in the first layer or with 16 "
    "at one side.",
    source="ModelOpt, find_nodes_from_convs_to_exclude",
    remedy="Leave the convolution in floating point.",
    check=_small,
)


def _vectors(view: View) -> Iterator[Outcome]:
    for node in view.quantized:
        if node.op not in {"MatMul", "Gemm"}:
            continue
        rows, inner, columns = _sizes(node)
        small = [
            f"{name} = {size}"
            for name, size, least in (("K", inner, 16), ("N", columns, 16), ("M", rows, 2))
            if size is not None and size < least
        ]
        if small:
            yield Fault(f"it has {', '.join(small)}", (node,))
        elif None in (rows, inner, columns):
            yield Unknown("a size of the product is not fixed", (node,))


def _sizes(node: Node) -> tuple[int | None, int | None, int | None]:
    """M, K and N; with a matrix as right operand all leading dimensions are rows."""
    left, right = (tuple(one.shape or ()) if one else () for one in node.inputs[:2])
    if node.op == "Gemm":
        left = left[::-1] if node.attributes.get("transA") else left
        right = right[::-1] if node.attributes.get("transB") else right
    if len(left) < 2 or len(right) < 2:
        return None, None, None
    leading = left[:-1] if len(right) == 2 else left[-2:-1]
    rows: int | None = 1
    for size in leading:
        rows = None if rows is None or size is None else rows * size
    return rows, left[-1], right[-1]


P12 = Rule(
    "P12",
    Severity.WARNING,
    "quantized matrix products have 16 columns (N) and 16 terms (K) or more, and several rows (M)",
    why="Smaller ones, and products with a vector, are bound by memory: INT8 gains nothing.",
    source="ModelOpt, find_nodes_from_matmul_to_exclude",
    remedy="Leave the operator in floating point, such as a classifier at batch size 1.",
    check=_vectors,
)


def _fp8(view: View) -> Iterator[Outcome]:
    for node in view.quantized:
        if node.op not in CONVOLUTIONS:
            continue
        quantizer, found, volume = weight_quantizer(node), channels(node), prod(kernel(node))
        kind = _kind(node)
        if quantizer is None or kind not in BLOCKED or found is None:
            continue
        if kind != FP8 or quantizer.attributes.get("block_size"):
            yield Fault("a convolution is quantized in blocks or 4 bits", (node,))
        elif found[2] > 1 or min(found[:2]) <= 16 or volume > 32:
            what = f"{found[0]} to {found[1]} channels in {found[2]} groups, a window of {volume}"
            yield Fault(what, (node,))


P20 = Rule(
    "P20",
    Severity.WARNING,
    "FP8 convolutions have one group, more than 16 channels at both sides and a window of at most "
    "32; none is MXFP8 or NVFP4",
    why="There are no fast FP8 kernels for others.",
    source="ModelOpt; TRT#4524 (release notes of 10.12)",
    remedy="Quantize such a convolution to INT8, or leave it in floating point.",
    check=_fp8,
)
