"""The graph of a model in PyTorch for a page, in the form of that of a file."""

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from embedl_deploy.graph.paths import node_path
from embedl_deploy.graph.shapes import shape, value
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import QuantStub
from embedl_deploy.quantize.measuring.onepass import stubs_before
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.report.page.graph import entry

_ENDS = {"placeholder": "Input", "output": "Output"}


def model_graph(model: fx.GraphModule) -> list[dict[str, Any]]:
    """Inputs, operations and outputs of a model, each with the indices of what it reads.

    Parameters name in `host` the operation at which they are shown.

    Args:
        model: Before or after quantization.
    """
    objects = dict(model.named_modules())
    index = {node: place for place, node in enumerate(model.graph.nodes)}
    rows = [_row(node, objects, index) for node in model.graph.nodes]
    for node in model.graph.nodes:
        if node.op == "get_attr" and node.users:
            rows[index[node]]["host"] = min(index[user] for user in node.users)
    return rows


def _row(
    node: fx.Node, objects: Mapping[str, nn.Module], index: Mapping[fx.Node, int]
) -> dict[str, Any]:
    name = str(node.target) if node.op == "get_attr" else node_path(node)
    module = objects.get(str(node.target)) if node.op == "call_module" else None
    above = name.split(".")[:-1] if node.op not in _ENDS else []
    row = entry(name, _op(node, module), above, [index[one] for one in node.all_input_nodes])
    kind = getattr(value(node), "dtype", None)
    row["dtype"] = "" if kind is None else str(kind).removeprefix("torch.").upper()
    row["shape"] = "×".join(map(str, shape(node) or ()))
    row["weighted"] = module is not None and next(module.parameters(), None) is not None
    if isinstance(module, QuantStub):
        row["note"] = f"scale {module.step.item():.4g}" if module.calibrated else ""
        row["computes"] = _numbers(module)
    elif isinstance(module, FusedModule):
        before = stubs_before(node, objects).values()
        stubs = [one for one in (*before, *quantizers_of(module)) if isinstance(one, QuantStub)]
        row["computes"] = _numbers(stubs[0]) if stubs else ""
    return row


def _op(node: fx.Node, module: nn.Module | None) -> str:
    if isinstance(module, QuantStub):
        return "stub"
    if module is not None:
        return type(module).__name__
    return _ENDS.get(node.op) or str(getattr(node.target, "__name__", node.target))


def _numbers(stub: QuantStub) -> str:
    """The kind of number that a stub rounds to, as a page names types."""
    return f"INT{stub.config.bits}" if stub.config.format == "int" else "FP8"
