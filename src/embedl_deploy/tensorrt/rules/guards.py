"""Small constants that keep a divisor from zero, and that half precision makes zero."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import View, constant

_LEAST = 2.0**-25
"""Half of the smallest number of FP16; up to here a number becomes zero."""

_THROUGH = frozenset({"Cast", "Expand", "Identity", "Pow", "Reshape", "Sqrt", "Unsqueeze"})
_DIVIDES = frozenset({"Log", "Reciprocal"})


def lost_guards(view: View) -> Iterator[tuple[Value, Node]]:
    """Constants that are zero in an FP16 sum or limit, and the operator that adds or limits."""
    for node in view.of("Add", "Max", "Clip"):
        if node.output.dtype == "FLOAT16" and _is_divided_by(node.output):
            limits = node.inputs[1:2] if node.op == "Clip" else node.inputs
            yield from ((value, node) for value in limits if value and _is_lost(value))


def _is_lost(value: Value) -> bool:
    """Whether one number is zero in FP16."""
    tensor = constant(value)
    array = tensor.array() if tensor is not None and tensor.size == 1 else None
    return array is not None and bool(abs(array.astype("float64")).max() <= _LEAST)


def _is_divided_by(value: Value) -> bool:
    """Whether something divides by a value, or takes its logarithm."""
    pending, seen = [value], {id(value)}
    for one in pending:
        for node, index in one.uses:
            if node.op in _DIVIDES or (node.op == "Div" and index == 1):
                return True
            if node.op in _THROUGH and id(node.output) not in seen:
                seen.add(id(node.output))
                pending.append(node.output)
    return False
