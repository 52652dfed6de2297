"""What a file is, in words: the numbers that it is quantized to, or its floating-point type."""

from collections import Counter
from collections.abc import Iterable, Iterator

from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.onnx_model.dtypes import FLOATS
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import WEIGHTED, View, stored_type
from embedl_deploy.tensorrt.prediction.types import named

_SUMS = {"INT32", ""}
"""Types of biases, and of what is not known."""


def numbers_of(file: OnnxFile) -> list[str]:
    """The kinds of numbers that a file quantizes to, such as INT8; empty where it does not.

    The most frequent kind is first.

    Raises:
        CheckError: The file has no sound graph.
    """
    counts = Counter(one for one in _stored(file.view) if one not in _SUMS)
    return [named(one) for one, _ in counts.most_common()]


def word_for(file: OnnxFile) -> str:
    """What a file is: "INT8", "INT8 and INT4", "float16"; "File" where operators are unknown.

    Raises:
        CheckError: The file has no sound graph.
    """
    if numbers := numbers_of(file):
        return " and ".join(numbers)
    if any(node.domain for node in file.view.graph):
        return "File"
    counts = _floats(file.view.of(*WEIGHTED)) or _floats(file.view.graph)
    if not counts:
        return "File"
    [(name, _)] = counts.most_common(1)
    return "float32" if name == "FLOAT" else name.lower()


def _stored(view: View) -> Iterator[str]:
    yield from (stored_type(node) for node in view.pairs)
    for node in view.of("MatMulInteger", "ConvInteger"):
        yield from (one.dtype for one in node.inputs[:2] if one)


def _floats(nodes: Iterable[Node]) -> Counter[str]:
    return Counter(one.output.dtype for one in nodes if one.output.dtype in FLOATS)
