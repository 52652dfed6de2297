"""Module paths of a graph that is being built: where each module goes, and that none collide."""

from collections import Counter
from typing import Any

from torch import fx, nn

from embedl_deploy.graph.stand_ins import StandInTracer, torch_takes_stand_ins


def parent(path: str) -> str:
    """The path of the module that holds `path`; empty for the root."""
    return path.rpartition(".")[0]


def join(scope: str, name: str) -> str:
    """`name` inside `scope`."""
    return f"{scope}.{name}" if scope else name


class Paths:
    """Paths in use, and fresh ones in constant time.

    Args:
        reserved: Paths of modules.
        tensors: Paths of tensors; a module may take the place of what holds them.
    """

    def __init__(self, reserved: set[str] | None = None, tensors: set[str] | None = None) -> None:
        self._leaves: set[str] = set(tensors or ())
        self._containers: set[str] = set()
        self._counts: Counter[str] = Counter()
        for path in reserved or ():
            self.reserve(path)

    def reserve(self, path: str) -> None:
        """Mark `path` as used."""
        self._leaves.add(path)
        while path := parent(path):
            self._containers.add(path)

    def fresh(self, stem: str) -> str:
        """`stem` itself where it is free, else with a number after it; reserved.

        A module can have no place inside another one of the graph: `attn.query` is beside
        `attn` as `attn_query`.
        """
        stem = path = self._outside(stem)
        while path in self._leaves or path in self._containers:
            self._counts[stem] += 1
            path = f"{stem}_{self._counts[stem]}"
        self.reserve(path)
        return path

    def release(self, path: str) -> None:
        """Mark `path` as free again."""
        self._leaves.discard(path)

    def _outside(self, path: str) -> str:
        above = parent(path)
        while above:
            if above in self._leaves:
                return f"{above}_{path[len(above) + 1 :].replace('.', '_')}"
            above = parent(above)
        return path


def source_name(module: nn.Module) -> str:
    """Name of the class of the model that a graph module was captured from."""
    return str(getattr(module, "_source_name", type(module).__name__))


def keep_name(module: nn.Module, source: nn.Module) -> None:
    """Let `module` be known under the name of `source`; copying a graph module forgets it."""
    module._source_name = source_name(source)  # type: ignore[assignment]  # noqa: SLF001 - ours


def graph_module(objects: dict[str, Any], graph: fx.Graph, source: nn.Module) -> fx.GraphModule:
    """A graph module over `objects` by path, in the train or eval mode of `source`.

    Args:
        objects: What the graph's targets name; those it does not name are left out.
        graph: The graph; the module takes it over.
        source: Gives class name and mode, module by module where it has the same path.
    """
    if not torch_takes_stand_ins():
        graph._tracer_cls = StandInTracer  # noqa: SLF001 - it traces the code where it is unpickled
    module = fx.GraphModule(objects, graph, class_name=source_name(source))
    keep_name(module, source)
    known = dict(source.named_modules(remove_duplicate=False))
    for path, container in module.named_modules():
        if type(container) is nn.Module or container is module:
            container.training = known.get(path, source).training
    return module


def node_path(node: fx.Node) -> str:
    """The path of a node's module, or of a function within the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    return join(str(node.meta.get("scope", "")), node.name)
