"""What is known of a model's channels while its graph is walked, and afterwards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.modules.base import by_name
from embedl_deploy.quantize.correcting.rescale.classes import ZERO, Classes
from embedl_deploy.quantize.correcting.rescale.labels import along, ranked
from embedl_deploy.quantize.correcting.rescale.sites import (
    Matrix,
    Producer,
    Reading,
    axes_of,
    storages,
)

Value = Any
"""Labels, the reason why there are none, or a tuple of such."""


class Channels:
    """The labels of a model's values, what gives them and what reads them.

    Args:
        model: A model from `transform`.
        shapes: What is known of each node's value: a tensor on the meta device, a number, or
            `None`.

    Attributes:
        labels: By node.
        classes: Which of them have one factor in common, and which have none.
        producers: What takes the factors.
        readings: What takes the inverse, and what has a range.
        modules: All modules of the model by path.
    """

    def __init__(self, model: fx.GraphModule, shapes: Mapping[fx.Node, Any]) -> None:
        self.labels: dict[fx.Node, Value] = {}
        self.classes = Classes()
        self.producers: list[Producer] = []
        self.readings: list[Reading] = []
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.shapes = shapes
        self._uses = _uses(model, self.modules)

    def tied(self, one: nn.Module | Tensor) -> bool:
        """Whether a tensor, or one of a module, is used elsewhere too."""
        return any(self._uses[place] > 1 for place in storages(one))

    def held(self, node: fx.Node) -> Any:
        """What the model has where a node gets an attribute."""
        return _held(self.modules, node)

    def rank(self, node: fx.Node) -> int | None:
        """How many dimensions a tensor has, where known."""
        known = self.shapes.get(node)
        return known.dim() if isinstance(known, Tensor) else None

    def shape(self, node: fx.Node, rank: int) -> tuple[int, ...]:
        """The shape of a tensor with labels, or what these say of it where it is not known."""
        known = self.shapes.get(node)
        return tuple(
            (known if isinstance(known, Tensor) else ranked(self.labels[node], rank)).shape
        )

    def named(self, node: fx.Node) -> str:
        """An operation in words."""
        if node.op == "call_module":
            kind = type(self.modules[str(node.target)]).__name__
            return f"'{node.target}' ({kind.removeprefix('Fused')})"
        scope = node.meta.get("scope")
        return f"'{node.name}' in '{scope}'" if scope else f"'{node.name}'"

    def given(self, node: fx.Node) -> dict[str, Any]:
        """What a call of a module gets, by name."""
        return by_name(self.modules[str(node.target)], node.args, node.kwargs)

    def of(self, value: object) -> Value:
        """The labels of an argument."""
        return self.labels[value] if isinstance(value, fx.Node) else "a constant has none"

    def stopped(self, node: fx.Node, reason: str = "") -> str:
        """Give the inputs of an operation no factor; returns the reason."""
        reason = reason or f"{self.named(node)} takes no factor"
        for source in node.all_input_nodes:
            self.pin(self.labels[source], reason)
        return reason

    def pin(self, value: Value, reason: str) -> str:
        """Give a value no factor; returns the reason."""
        for one in pytree.tree_leaves(value):
            if isinstance(one, Tensor):
                self.classes.pin(one, reason)
        return reason

    def added(self, node: fx.Node, one: Value, other: Value) -> Value:
        """The labels of a sum, whose terms have the same factors; or why it has none."""
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            self.classes.join(one, other)
            return one.maximum(other)
        return self.pin((one, other), f"{self.named(node)} adds what takes no factor")

    def read(
        self, node: fx.Node, arguments: tuple[str, ...], matrices: Sequence[Matrix] = ()
    ) -> Tensor | None:
        """Note that a layer computes with a tensor, channel by channel.

        Args:
            node: The call of the layer.
            arguments: Names of the arguments of its `forward` that are the tensor.
            matrices: The weights that read it.

        Returns:
            One label a channel, where it has labels.
        """
        tensor, module = self.given(node)[arguments[0]], self.modules[str(node.target)]
        value = self.of(tensor)
        labels, reason = None, value
        if isinstance(value, Tensor):
            labels = self._by_channel(tensor, module, matrices)
            reason = "" if labels is not None else f"{self.named(node)} mixes its channels"
            if labels is None:
                self.pin(value, reason)
        reading = Reading(str(node.target), module, arguments, labels, reason, tuple(matrices))
        self.readings.append(reading)
        return labels

    def tensors(self) -> list[Tensor]:
        """The labels of every tensor that a layer reads, without those of zeros."""
        every = [one.labels for one in self.readings if one.labels is not None]
        return [labels[labels != ZERO] for labels in every]

    def _by_channel(
        self, tensor: fx.Node, module: nn.Module, matrices: Sequence[Matrix]
    ) -> Tensor | None:
        axes = axes_of(module, self.rank(tensor) or 4)
        shape = self.shape(tensor, -min(axes))
        sizes = [matrices[0].columns] if matrices else [shape[axis] for axis in axes]
        return along(self.labels[tensor], axes, sizes)


def _uses(model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Counter[int]:
    """How many operations use each piece of memory that holds parameters."""
    uses: Counter[int] = Counter()
    for node in model.graph.nodes:
        if node.op == "call_module":
            uses.update(storages(modules[str(node.target)]))
        elif node.op == "get_attr":
            uses.update(storages(_held(modules, node)))
    return uses


def _held(modules: Mapping[str, nn.Module], node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(modules[owner], name)
