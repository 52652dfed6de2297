"""What makes a graph one at all: names used once, values made before they are used."""

from collections.abc import Container, Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from embedl_deploy.errors import CheckError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def put_in_order(graph: "GraphProto", outer: frozenset[str] = frozenset()) -> None:
    """Raise unless a graph, and those inside it, are sound; sort nodes that are out of order.

    Args:
        graph: Is changed where nodes come before those that they read.
        outer: Names of the graphs around it.

    Raises:
        CheckError: A name has two values, a value is made nowhere, or there is a cycle.
    """
    _check_text(graph)
    makers = _makers(graph)
    _check_once(graph, makers)
    visible = outer.union(makers, _constants(graph), (one.name for one in graph.input))
    reads = [_reads(node) for node in graph.node]
    _check_made(graph, reads, visible)
    before = [[makers[name] for name in names if name in makers] for names in reads]
    if any(maker >= index for index, found in enumerate(before) for maker in found):
        _sort(graph, before)
    for node in graph.node:
        for inner in subgraphs(node):
            put_in_order(inner, visible)


def _constants(graph: "GraphProto") -> list[str]:
    dense = [one.name for one in graph.initializer]
    return [*dense, *(one.values.name for one in graph.sparse_initializer)]


def _check_once(graph: "GraphProto", makers: Container[str]) -> None:
    """Raise where an input or a constant has the name of another value."""
    entries = [one.name for one in graph.input]
    clash = next((name for name in (*_constants(graph), *entries) if name in makers), None)
    clash = clash or _twice(entries) or _twice([one.name for one in graph.initializer])
    if clash is not None:
        raise CheckError(f"two values have the name '{clash}'; give each value a name of its own")


def _check_made(
    graph: "GraphProto", reads: Sequence[Iterable[str]], visible: Container[str]
) -> None:
    """Raise where a node reads, or the graph gives, what nothing makes."""
    for node, names in zip(graph.node, reads, strict=True):
        lost = next((name for name in names if name not in visible), None)
        if lost is not None:
            raise CheckError(f"{title(node)} reads '{lost}', which nothing makes")
    lost = next((one.name for one in graph.output if one.name not in visible), None)
    if lost is not None:
        raise CheckError(f"the output '{lost}' of the graph is made by no node")


def _check_text(graph: "GraphProto") -> None:
    """Protobuf gives text that is not UTF-8 as bytes."""
    ends = (one.name for one in (*graph.input, *graph.output, *graph.initializer))
    texts = (
        text
        for node in graph.node
        for text in (node.op_type, node.domain, node.name, *node.input, *node.output)
    )
    wrong = next((text for text in (*ends, *texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise CheckError(f"the name {wrong!r} is not UTF-8; the file is damaged")


def _makers(graph: "GraphProto") -> dict[str, int]:
    """By name of a value the index of the node that makes it."""
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                one, other = title(graph.node[makers[name]]), title(node)
                raise CheckError(f"two values have the name '{name}': {one} and {other} make one")
            makers[name] = index
    return makers


def _twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _reads(node: "NodeProto") -> set[str]:
    """Names that a node reads, those that graphs inside it take from outside too."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        own = {one.name for one in (*graph.input, *graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        taken = {name for inner in graph.node for name in _reads(inner)}
        names |= (taken | {one.name for one in graph.output}) - own
    return names


def _sort(graph: "GraphProto", before: Sequence[Sequence[int]]) -> None:
    sorter = TopologicalSorter(dict(enumerate(before)))
    try:
        order = tuple(sorter.static_order())
    except CycleError as error:
        places = " → ".join(title(graph.node[index]) for index in reversed(error.args[1]))
        raise CheckError(f"the graph has a cycle: {places}") from None
    nodes = [graph.node[index] for index in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def subgraphs(node: "NodeProto") -> Iterator["GraphProto"]:
    """Graphs in the attributes of a node, such as the branches of `If`."""
    for attribute in node.attribute:
        if attribute.type == 5:
            yield attribute.g
        elif attribute.type == 10:
            yield from attribute.graphs


def title(node: "NodeProto") -> str:
    """A node in a message."""
    return f"{node.op_type} '{node.name or next(iter(node.output), '')}'"
