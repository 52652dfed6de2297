"""A graph that is being rewritten."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from torch import fx, nn

from embedl_deploy.graph.dead import remove_dead
from embedl_deploy.graph.facts import Facts
from embedl_deploy.graph.paths import Paths, graph_module, parent
from embedl_deploy.graph.proxies import is_size
from embedl_deploy.graph.shapes import targets


class Draft:
    """A copy of a graph, the modules and tensors it names, and the paths in use.

    Attributes:
        graph: The nodes; edited freely.
        objects: Modules and tensors by path.
        paths: Gives free paths.
        facts: What is known of shapes.
    """

    def __init__(self, graph: fx.Graph, objects: dict[str, Any], source: nn.Module) -> None:
        self.graph = graph
        self.objects = objects
        self.source = source
        self.paths = Paths({str(node.target) for node in graph.nodes if node.op == "call_module"})
        self.facts = Facts(objects)
        self._uses: Counter[int] | None = None
        self._constant: dict[fx.Node, bool] = {}

    @classmethod
    def of(cls, module: fx.GraphModule) -> Self:
        """A draft of a graph module; shares its modules, not its nodes."""
        graph = fx.Graph()
        output = graph.graph_copy(module.graph, {})
        graph.output(output)
        return cls(graph, targets(module), module)

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a node calls."""
        found: nn.Module = self.objects[str(node.target)]
        return found

    def mode(self, scope: str) -> bool:
        """Whether the module at `scope` in the source is in train mode."""
        try:
            return self.source.get_submodule(scope).training
        except AttributeError:  # it has no parameters and no modules in the graph
            return self.source.training

    def is_shared(self, module: nn.Module) -> bool:
        """Whether a parameter of `module` is used at more than one place."""
        if self._uses is None:
            self._uses = Counter(
                id(tensor) for node in self.graph.nodes for tensor in self._read(node)
            )
        return any(self._uses[id(parameter)] > 1 for parameter in module.parameters())

    def is_constant(self, node: fx.Node) -> bool:
        """Whether a value follows from the model's own tensors, numbers and sizes alone."""
        pending = [node]
        while pending:
            current = pending[-1]
            sources = () if is_size(current) else current.all_input_nodes
            unknown = next((one for one in sources if one not in self._constant), None)
            if unknown is not None:
                pending.append(unknown)
                continue
            fixed = current.op != "placeholder" and all(self._constant[one] for one in sources)
            self._constant[pending.pop()] = fixed
        return self._constant[node]

    def _read(self, node: fx.Node) -> Iterable[object]:
        match node.op:
            case "call_module":
                return self.module(node).parameters()
            case "get_attr":
                return (self.objects[str(node.target)],)
        return ()

    def calls(self) -> Counter[str]:
        """How often each module is called, or read: `conv.weight` reads `conv`."""
        used: Counter[str] = Counter()
        for node in self.graph.nodes:
            if node.op == "call_module":
                used[str(node.target)] += 1
            elif node.op == "get_attr" and node.users:
                used[parent(str(node.target))] += 1
        return used

    def finish(self) -> fx.GraphModule:
        """The graph module of the draft as it is now; the draft is spent."""
        remove_dead(self.graph)
        result = graph_module(self.objects, self.graph, self.source)
        result.graph.lint()
        return result
