"""Removing what nothing uses."""

import torch
from torch import fx

from embedl_deploy.graph.proxies import is_size
from embedl_deploy.graph.sizes import check_input

_CHECKS = frozenset({torch._assert, check_input})  # noqa: SLF001 - has no public name

_WRITE_NOTHING = frozenset({"torch", "_operator", "builtins", "math"})
"""Packages whose functions, in the forms that the canonical graph has, write to no argument."""


def remove_dead(graph: fx.Graph) -> None:
    """Remove what nothing uses, except inputs, the output, checks and what may write."""
    for node in reversed(graph.nodes):
        if node.users or node.op in {"placeholder", "output"} or node.target in _CHECKS:
            continue
        if not (is_opaque(node) and _may_write(node)):
            graph.erase_node(node)


def _may_write(node: fx.Node) -> bool:
    """Whether a call may be there for what it writes to its arguments: sizes are none of those."""
    return not all(map(is_size, node.all_input_nodes))


def is_opaque(node: fx.Node) -> bool:
    """Whether a node calls a function that tracing did not look into (`torch.fx.wrap`)."""
    module = getattr(node.target, "__module__", None) or "torch"
    hides = module.partition(".")[0] not in _WRITE_NOTHING and node.target is not check_input
    return node.op == "call_function" and hides
