"""Where values that are not finite come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CalibrationError
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.quantize.stubs import QuantStub


def check_finite(
    model: fx.GraphModule,
    stubs: Mapping[str, QuantStub],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    batch: str,
) -> None:
    """Raise where the observer of a stub has seen a value that is not finite.

    Args:
        model: What has just run.
        stubs: Its stubs by path, in the order in which they run.
        args: Its positional inputs. It runs once more where the check fails.
        kwargs: Its inputs by name.
        batch: What the inputs are, in words.

    Raises:
        CalibrationError: They have; names where the values come from.
    """
    seen = {path: one.observer.largest for path, one in stubs.items() if one.observer is not None}
    largest = {path: one for path, one in seen.items() if one is not None}
    if not largest or torch.stack([*largest.values()]).isfinite().all():
        return
    path = next(path for path, one in largest.items() if not one.isfinite())
    with torch.no_grad():
        source = _source(model, path, args, kwargs)
    raise CalibrationError(
        f"values that are not finite (NaN or infinite) come from {source} in {batch} and reach "
        f"'{path}' ({', '.join(stubs[path].points)}); check the calibration data and the weights"
    )


class _Watch(Interpreter):
    """Runs a graph and keeps which of its values are not finite."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.bad: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        leaves = [one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]
        if not all(bool(one.isfinite().all()) for one in leaves):
            self.bad.add(n)
        return result


def _source(
    model: fx.GraphModule, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """What gives values that are not finite and takes none, going back from a stub."""
    watch = _Watch(model)
    watch.run(*in_order(model, args, kwargs))
    calls = {str(node.target): node for node in model.graph.nodes if node.op == "call_module"}
    owner = path  # of a stub inside a fused module
    while owner not in calls:
        owner = owner.rpartition(".")[0]
    node = calls[owner]
    while before := [one for one in node.all_input_nodes if one in watch.bad]:
        node = before[0]
    return _described(node, model)


def in_order(model: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of a graph by position."""
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    rest = inputs[len(args) :]
    named = [kwargs.get(str(node.target), *node.args[:1]) for node in rest]
    return [*args, *named]


def _described(node: fx.Node, model: fx.GraphModule) -> str:
    match node.op:
        case "placeholder":
            return f"the input '{node.target}'"
        case "get_attr":
            return f"the tensor '{node.target}'"
        case "call_module":
            module = model.get_submodule(str(node.target))
            return f"'{node.target}' ({type(module).__name__}{_bad_tensor(module)})"
    scope = node.meta.get("scope")
    return f"the operation '{node.name}'" + (f" in '{scope}'" if scope else "")


def _bad_tensor(module: nn.Module) -> str:
    tensors = (*module.named_parameters(), *module.named_buffers())
    bad = [name for name, one in tensors if not one.isfinite().all()]
    return f", whose '{bad[0]}' is not finite" if bad else ""
