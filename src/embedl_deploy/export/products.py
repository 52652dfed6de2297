"""The last products before the outputs: what is added there after them flatters the outputs.

Anchors, offsets and decoded coordinates are large and exact. The figure that says what
quantization did is that of the logits and distances before.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from embedl_deploy.export.difference import ProductParity
from embedl_deploy.modules import FusedModule

if TYPE_CHECKING:
    import onnx_ir

_MARK = "/product"
"""Ends the names of the outputs that are added."""

_NO_RESULT = frozenset({"QuantizeLinear", "DequantizeLinear", "Transpose", "Cast"})
"""Operators on the way of a weight or a number; what a layer gives comes from another one."""

_SIZES = frozenset({"size", "dim", getattr})
"""What reads no values."""


class Products:
    """Fused modules that feed outputs by operations without weights; their results in the file.

    Args:
        model: The file; changed.
        beside: What it is compared with.

    Attributes:
        found: By path.
    """

    def __init__(self, model: "onnx_ir.Model", beside: nn.Module) -> None:
        self.found: dict[str, ProductParity] = {}
        self._simulated: dict[str, Tensor] = {}
        if not isinstance(beside, fx.GraphModule):
            return
        names = [str(one.name) for one in model.graph.outputs]
        for path, places in _feeding(beside).items():
            value = _result(model, path)
            if value is not None and max(places) < len(names):
                outputs = tuple(names[place] for place in places)
                self.found[path] = ProductParity(outputs=outputs)
                show(model, value, path + _MARK)

    def watch(self, model: nn.Module) -> list[Any]:
        """Hooks that note what the modules give."""
        return [
            model.get_submodule(path).register_forward_hook(self._note(path)) for path in self.found
        ]

    def pop(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take out what they give in the file; by path."""
        return {path: outputs.pop(path + _MARK) for path in self.found}

    def add(self, computed: Mapping[str, Tensor]) -> None:
        """Compare one batch; what has another form in the file is left out from then on."""
        for path, found in computed.items():
            wanted = self._simulated.get(path)
            if wanted is None or wanted.shape != found.shape:
                self.found[path].values = -1
            elif self.found[path].values >= 0:
                self.found[path].add(wanted, found)

    @property
    def compared(self) -> dict[str, ProductParity]:
        """Those that have the same form in both."""
        return {path: one for path, one in self.found.items() if one.values > 0}

    def _note(self, path: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._simulated[path] = output.cpu()

        return note


def _feeding(model: fx.GraphModule) -> dict[str, list[int]]:
    """The last fused modules with weights before each output, by path, with the outputs' places."""
    modules = dict(model.named_modules())
    end = next(node for node in model.graph.nodes if node.op == "output")
    found: dict[str, list[int]] = {}
    for place, output in enumerate(_leaves(end.args[0])):
        pending, seen = [output], {output}
        while pending:
            node = pending.pop()
            module = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FusedModule) and module.parts:
                if node is not output:
                    found.setdefault(str(node.target), []).append(place)
                continue
            if node.target in _SIZES:
                continue
            fresh = [one for one in node.all_input_nodes if one not in seen]
            seen.update(fresh)
            pending += fresh
    called = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    return {path: places for path, places in found.items() if called.count(path) == 1}


def _leaves(tree: Any) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(tree, found.append)
    return iter(found)


def _result(model: "onnx_ir.Model", path: str) -> "onnx_ir.Value | None":
    """What the operators of a module give in the end."""
    last = None
    for node in model.graph:
        own = str(node.name).startswith((f"{path}/", f"{path}."))
        if own and node.op_type not in _NO_RESULT:
            last = node
    return None if last is None else last.outputs[0]


def show(model: "onnx_ir.Model", value: "onnx_ir.Value", name: str, dtype: str = "FLOAT") -> None:
    """Make a value an output, in another type."""
    import onnx_ir

    kind = onnx_ir.DataType[dtype]
    copy = onnx_ir.node("Cast", [value], {"to": kind})
    copy.outputs[0].name, copy.outputs[0].dtype = name, kind
    model.graph.append(copy)
    model.graph.outputs.append(copy.outputs[0])
