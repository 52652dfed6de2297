"""Where values that are not finite come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CalibrationError
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.quantize.stubs import QuantStub


class Faults:
    """Looks for values that are not finite, batch by batch, and says where they come from.

    A device that works while the host goes on is not waited for: the batch after which an observer
    had seen the first such value is noted there, and looked at in the end.

    Args:
        model: What runs.
        stubs: Its stubs by path, in the order in which they run.
    """

    def __init__(self, model: fx.GraphModule, stubs: Mapping[str, QuantStub]) -> None:
        self._model, self._stubs = model, stubs
        self._found: Tensor | None = None
        self._batch: Tensor | None = None
        self._kept: list[Any] = []
        self._form: Any = None

    def look(self, args: Sequence[Any], kwargs: Mapping[str, Any], batch: int) -> None:
        """Look after a batch.

        Args:
            args: The positional inputs of the model. It runs once more where there is a fault.
            kwargs: Its inputs by name.
            batch: Which one it was.

        Raises:
            CalibrationError: An observer has seen a value that is not finite, on the CPU.
        """
        seen = list(_seen(self._stubs).values())
        if not seen:
            return
        found = ~torch.stack(seen).isfinite().all()
        if found.device.type != "cpu":
            self._note(found, args, kwargs, batch)
        elif found:
            self._raise(args, kwargs, batch)

    def end(self) -> None:
        """Look after the last batch.

        Raises:
            CalibrationError: An observer has seen a value that is not finite.
        """
        if self._found is None or self._batch is None or not self._found:
            return
        for stub in self._stubs.values():
            if stub.observer is not None:
                stub.observer.reset()
        args, kwargs = pytree.tree_unflatten(self._kept, self._form)
        self._model(*args, **kwargs)
        self._raise(args, kwargs, int(self._batch))

    def _note(
        self, found: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], batch: int
    ) -> None:
        """Keep the inputs where the fault is new; of several shapes, those of the first."""
        leaves, form = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if self._found is None or self._batch is None:
            self._found, self._batch = found, torch.full_like(found, batch, dtype=torch.int64)
            self._kept, self._form = leaves, form
            return
        new = found & ~self._found
        self._found = found
        self._batch = torch.where(new, batch, self._batch)
        if _alike(leaves, self._kept) and form == self._form:
            pairs = zip(leaves, self._kept, strict=True)
            self._kept = [
                torch.where(new, one, kept) if isinstance(one, Tensor) else one
                for one, kept in pairs
            ]

    def _raise(self, args: Sequence[Any], kwargs: Mapping[str, Any], batch: int) -> None:
        seen = _seen(self._stubs)
        path = next((path for path, one in seen.items() if not one.isfinite()), None)
        if path is None:
            raise CalibrationError(
                f"values that are not finite (NaN or infinite) reach stubs in calibration batch "
                f"{batch}; check the calibration data"
            )
        with torch.no_grad():
            source = _source(self._model, path, args, kwargs)
        raise CalibrationError(
            f"values that are not finite (NaN or infinite) come from {source} in calibration batch "
            f"{batch} and reach '{path}' ({', '.join(self._stubs[path].points)}); check the "
            "calibration data and the weights"
        )


def _seen(stubs: Mapping[str, QuantStub]) -> dict[str, Tensor]:
    """The largest magnitudes that observers have seen, by path."""
    seen = {path: one.observer.largest for path, one in stubs.items() if one.observer is not None}
    return {path: one for path, one in seen.items() if one is not None}


def _alike(leaves: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether tensors have the same shapes and types."""
    facts = [
        [(one.shape, one.dtype) if isinstance(one, Tensor) else None for one in some]
        for some in (leaves, others)
    ]
    return facts[0] == facts[1]


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
