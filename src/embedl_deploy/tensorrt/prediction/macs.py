"""Multiply-accumulates, from the shapes in the file."""

from math import prod

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import WEIGHTED

_UNCOUNTED = frozenset({"Einsum", "DeformConv"})
"""They multiply too, and are not counted here."""

_RECURRENT = frozenset({"RNN", "GRU", "LSTM"})


def multiplies(node: Node) -> bool:
    """Whether an operator has multiply-accumulates to count."""
    return not node.domain and node.op in WEIGHTED | _UNCOUNTED | _RECURRENT | {"Attention"}


def multiply_accumulates(node: Node) -> int | None:
    """How many it has; None where shapes are not known or it is not counted."""
    match node.op:
        case "Conv":
            weight = _sizes(node.input(1))
            return _product(_sizes(node.output), weight[1:] if weight else None)
        case "ConvTranspose":
            weight = _sizes(node.input(1))
            return _product(_sizes(node.first), weight[1:] if weight else None)
        case "Gemm":
            left = _sizes(node.first)
            axis = 0 if node.attributes.get("transA") else -1
            return _product(_sizes(node.output), left[axis:][:1] if left else None)
        case "MatMul":
            left = _sizes(node.first)
            return _product(_sizes(node.output), left[-1:] if left else None)
        case "Attention":
            return _attention(node)
        case "RNN" | "GRU" | "LSTM":
            return _recurrent(node)
    return None


def _recurrent(node: Node) -> int | None:
    """Of both products of every step and direction: with the input, and with the state."""
    steps, weight, state = _sizes(node.first), _sizes(node.input(1)), _sizes(node.input(2))
    if steps is None or weight is None or state is None:
        return None
    return steps[0] * steps[1] * (prod(weight) + prod(state))


def _attention(node: Node) -> int | None:
    """Of both products, whether heads are a dimension of their own or not."""
    query, key, value = (_sizes(node.input(index)) for index in range(3))
    if query is None or key is None or value is None:
        return None
    if len(query) == 3:
        groups = node.number("q_num_heads", 1) // max(1, node.number("kv_num_heads", 1))
        wide = prod(query) * key[1]
        return wide + query[0] * query[1] * key[1] * value[2] * groups
    return prod(query) * key[-2] + prod(query[:-1]) * key[-2] * value[-1]


def _sizes(value: Value | None) -> tuple[int, ...] | None:
    """A shape that is known whole."""
    shape = value.shape if value is not None else None
    if shape is None:
        return None
    known = tuple(one for one in shape if one is not None)
    return known if len(known) == len(shape) else None


def _product(*parts: tuple[int, ...] | None) -> int | None:
    known = [part for part in parts if part is not None]
    return prod(map(prod, known)) if len(known) == len(parts) else None
