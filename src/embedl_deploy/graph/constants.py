"""Values of a canonical graph that follow from parameters alone, whatever the inputs are."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from embedl_deploy.graph.known import known_by


class Constants:
    """Computes values that depend on parameters and buffers, not on an input.

    Args:
        objects: The parameters, buffers and modules that the graph's nodes name.
        training: Whether what trains may get other values.
    """

    def __init__(self, objects: Mapping[str, Any], *, training: bool) -> None:
        self.objects = objects
        self._training = training
        self._parameters: dict[fx.Node, nn.Parameter | None] = {}
        self._constant: dict[fx.Node, bool] = {}

    def parameter(self, node: fx.Node) -> nn.Parameter | None:
        """The value of a node as a parameter of its own; `None` where an input or chance is in it.

        It trains if something that it is computed from does.
        """
        if node not in self._parameters:
            self._parameters[node] = self._computed(node) if self.depends(node) else None
        return self._parameters[node]

    def depends(self, node: fx.Node) -> bool:
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

    def number(self, node: object) -> Any:
        """The value of a node that is known now, and stays: `None` where it may be another one.

        A parameter that trains may be; one in a model that infers is as constant as a buffer.
        """
        if not isinstance(node, fx.Node) or not self.depends(node):
            return None
        if self._training and self._trains(node):
            return None
        value = known_by(partial(self._value, node, {}))
        return value.detach() if isinstance(value, Tensor) else value

    def _computed(self, node: fx.Node) -> nn.Parameter | None:
        value = known_by(partial(self._value, node, {}))
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
        pending, seen = [node], {node}
        while pending:
            one = pending.pop()
            if one.op == "get_attr" and self.objects[str(one.target)].requires_grad:
                return True
            new = [source for source in one.all_input_nodes if source not in seen]
            pending += new
            seen.update(new)
        return False
