"""Operators, and forms and types of them, that the parser or the builder refuses."""

from collections.abc import Callable, Iterator
from typing import Any

from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import View, constant
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity

_NOT_TAKEN = frozenset({
    "AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
    "BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "CumProd", "DFT",
    "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement",
    "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU",
    "TfIdfVectorizer", "Unique",
})  # fmt: skip
"""Operators without an importer; those that compute on integers are the matter of F02."""

_DATA_CENTRES = frozenset({"DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"})
"""Operators that TensorRT of data centres has, some as plugins, and TensorRT for RTX has not."""

_TYPES = frozenset(
    {"INT16", "UINT16", "UINT32", "UINT64", "STRING", "COMPLEX64", "COMPLEX128", "FLOAT8E5M2"}
)
_MOST = 3840
_MODES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)


def _text(node: Node, name: str, default: str) -> str:
    value: Any = node.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _one_output(node: Node) -> str:
    return "has a second output" if len(node.outputs) > 1 else ""


def _dilated(node: Node) -> str:
    return "is dilated" if {*node.attributes.get("dilations", (1,))} != {1} else ""


def _reducing(node: Node) -> str:
    kind = _text(node, "reduction", "none")
    return f"has the reduction '{kind}'" if kind != "none" else ""


def _flat(node: Node) -> str:
    shape = node.first.shape
    few = shape is not None and len(shape) < 2
    return "has fewer than two dimensions" if few else ""


def _resized(node: Node) -> str:
    if node.number("antialias", 0):
        return "has antialiasing"
    if (policy := _text(node, "keep_aspect_ratio_policy", "stretch")) != "stretch":
        return f"keeps the aspect ratio ('{policy}')"
    mode = _text(node, "coordinate_transformation_mode", "half_pixel")
    return "" if mode in _MODES else f"maps coordinates by '{mode}'"


def _many(node: Node) -> str:
    count = constant(node.input(1))
    values = None if count is None else count.array()
    most = 0 if values is None else max(values.ravel().tolist(), default=0)
    return f"gives {most} values, and {_MOST} are the most" if most > _MOST else ""


_FORMS: dict[str, tuple[Callable[[Node], str], ...]] = {
    "MaxPool": (_one_output, _dilated),
    "AveragePool": (_dilated,),
    "LpPool": (_dilated,),
    "LayerNormalization": (_one_output,),
    "ScatterND": (_reducing,),
    "ScatterElements": (_reducing,),
    "Resize": (_resized,),
    "TopK": (_many,),
    "ArgMax": (_flat,),
    "ArgMin": (_flat,),
    "Softmax": (_flat,),
    "LogSoftmax": (_flat,),
}


def _taken(view: View) -> Iterator[Outcome]:
    for node in view.graph:
        if node.domain:
            continue
        if node.op in _NOT_TAKEN:
            yield Fault(f"there is no importer for {node.op}", (node,))
        elif node.op in _DATA_CENTRES:
            what = f"TensorRT for RTX has no {node.op}; data centres: documented as taken"
            yield Fault(what, (node,), Severity.WARNING)
        for what in filter(None, (form(node) for form in _FORMS.get(node.op, ()))):
            yield Fault(f"{node.op} {what}", (node,))
        types = {one.dtype for one in (*node.inputs, *node.outputs) if one is not None} & _TYPES
        for dtype in sorted(types):
            yield Fault(f"{node.op} has tensors of type {dtype}", (node,))


F16 = Rule(
    "F16",
    Severity.ERROR,
    "operators, their forms and their types are ones that are taken",
    why="The parser has no importer, or says which form it does not take: a second output of "
    "MaxPool and LayerNormalization, dilated pooling, scattering with a reduction, resizing with "
    "antialiasing, softmax or argmax of one dimension, more than 3,840 values of TopK. Data "
    "centres: documented for most; TensorRT for RTX: seen, and it has no DeformConv, "
    "NonMaxSuppression, NonZero and RoiAlign (a warning).",
    source="operators.md of onnx-tensorrt (10.15); TensorRT for RTX 1.7.1",
    remedy="Write it with other operators, or compute it outside the file.",
    check=_taken,
)
