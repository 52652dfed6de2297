"""The graph of a page: plain data that its script lays out and draws."""

import re
from collections.abc import Iterator
from typing import Any

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    DEQUANTIZE,
    QUANTIZE,
    WEIGHTED,
    View,
    is_quantized,
    made_by,
    weight_quantizer,
)


def file_graph(view: View) -> list[dict[str, Any]]:
    """Inputs, operators and outputs of a file, each with the indices of what it reads.

    What follows from constants, and the second half of a Q/DQ pair, names in `host` the operator
    at which it is shown.

    Args:
        view: The graph.
    """
    inputs = list(_inputs(view))
    places = {id(value): index for index, value in enumerate(inputs)}
    for index, node in enumerate(view.graph, start=len(inputs)):
        places.update((id(value), index) for value in node.outputs)
    rows = [_end(one.name, "Input", one, []) for one in inputs]
    rows += [_row(view, node, places) for node in view.graph]
    for one in view.graph.outputs:
        read = [places[id(one)]] if id(one) in places else []
        rows.append(_end(one.name, "Output", one, read))
    _hide(view, rows, len(inputs))
    return rows


def module_path(label: str) -> list[str]:
    """The modules that an operator is in, by its name: `a.b/Conv`, or `/a/b/Conv`."""
    scope, _, _ = label.rpartition("/")
    if "/" in scope.strip("/"):
        return [part for part in scope.split("/") if part]
    return [part for part in re.split(r"[./]", scope) if part]


def _inputs(view: View) -> Iterator[Value]:
    read = (one for node in view.graph for one in node.inputs)
    found = {id(one): one for one in (*read, *view.graph.outputs) if one and one.is_input}
    return iter(found.values())


def _end(name: str, op: str, value: Value, reads: list[int]) -> dict[str, Any]:
    return entry(name, op, [], reads, value)


def entry(
    name: str, op: str, path: list[str], reads: list[int], value: Value | None = None
) -> dict[str, Any]:
    """What a page holds of an operator; of `value` its type and shape."""
    sizes = value.shape if value is not None else None
    return {
        "name": name,
        "op": op,
        "path": path,
        "reads": reads,
        "dtype": value.dtype if value is not None else "",
        "shape": "" if sizes is None else "×".join("?" if n is None else str(n) for n in sizes),
        "computes": "",
        "weighted": False,
        "note": "",
        "host": None,
    }


def _row(view: View, node: Node, places: dict[int, int]) -> dict[str, Any]:
    reads = dict.fromkeys(places[id(one)] for one in node.inputs if one and id(one) in places)
    value = node.output if node.outputs else None
    row = entry(node.label, node.op, module_path(node.label), list(reads), value)
    row["note"] = _note(view, node)
    row["weighted"] = not node.domain and node.op in WEIGHTED
    if row["weighted"] and is_quantized(node):
        row["computes"] = _stored(weight_quantizer(node) or made_by(node.first, DEQUANTIZE))
    return row


def _stored(quantizer: Node | None) -> str:
    """The type that a Q/DQ pair stores."""
    return "" if quantizer is None else quantizer.first.dtype


def _note(view: View, node: Node) -> str:
    """The scales of Q or DQ in words."""
    scale = view.scale(node) if node.op in {QUANTIZE, DEQUANTIZE} and not node.domain else None
    if scale is None or not scale.size:
        return ""
    numbers = scale.astype("float64")
    if numbers.size == 1:
        return f"scale {float(numbers.reshape(-1)[0]):.4g}"
    return f"{numbers.size} scales, {float(numbers.min()):.4g} to {float(numbers.max()):.4g}"


def _hide(view: View, rows: list[dict[str, Any]], start: int) -> None:
    """Name the hosts; from the end, so that each finds its host's host."""
    graph = view.graph
    index = {id(node): place for place, node in enumerate(graph, start)}
    for node in reversed(graph.nodes):
        if any(value.is_output for value in node.outputs):
            continue
        users = [user for value in node.outputs for user in value.users]
        row = rows[index[id(node)]]
        if users and all(view.is_fixed(value) for value in node.outputs):
            host = index[id(users[0])]
            row["host"] = host if rows[host]["host"] is None else rows[host]["host"]
        elif node.op == DEQUANTIZE and (made := made_by(node.first, QUANTIZE)) is not None:
            row["host"] = index[id(made)]
