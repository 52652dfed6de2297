"""Values of a canonical graph that follow from parameters alone, whatever the inputs are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn


class Constants:
    """Computes values that depend on parameters and buffers, not on an input.

    Args:
        objects: The parameters, buffers and modules that the graph's nodes name.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self.objects = objects
        self._parameters: dict[fx.Node, nn.Parameter | None] = {}
        self._constant: dict[fx.Node, bool] = {}

    def parameter(self, node: fx.Node) -> nn.Parameter | None:
        """The value of a node as a parameter of its own; `None` where an input or chance is in it.

        It trains if something that it is computed from does.
        """
        if node not in self._parameters:
            self._parameters[node] = self._computed(node) if self._depends(node) else None
        return self._parameters[node]

    def _depends(self, node: fx.Node) -> bool:
        """Whether a node depends on parameters and buffers alone."""
        pending = [node]
        while pending:
            last = pending[-1]
            unknown = [one for one in last.all_input_nodes if one not in self._constant]
            if unknown:
                pending += unknown
                continue
            inputs = last.all_input_nodes
            made = last.op not in {"placeholder", "output", "get_attr"} and bool(inputs)
            self._constant[last] = last.op == "get_attr" or (
                made and all(self._constant[one] for one in inputs)
            )
            pending.pop()
        return self._constant[node]

    def _computed(self, node: fx.Node) -> nn.Parameter | None:
        chance = torch.get_rng_state()
        with torch.no_grad():
            value = self._value(node, {})
        if not torch.equal(torch.get_rng_state(), chance):
            torch.set_rng_state(chance)
            return None
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        return nn.Parameter(value.detach().clone(), requires_grad=self._trains(node))

    def _value(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        if node in known:
            return known[node]
        if node.op == "get_attr":
            return self.objects[str(node.target)]
        inputs = {one: self._value(one, known) for one in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), inputs.__getitem__)
        known[node] = self._call(node, args, kwargs)
        return known[node]

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match node.op:
            case "call_module":
                return self.objects[str(node.target)](*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)  # noqa: S101 - a function is what is left
        return node.target(*args, **kwargs)

    def _trains(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            return bool(self.objects[str(node.target)].requires_grad)
        return any(self._trains(one) for one in node.all_input_nodes)
