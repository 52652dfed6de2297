"""Equal layers as one group: what is quantized or left is decided for all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import Skip
from embedl_deploy.quantize.measuring.onepass import measured_modules, stubs_before
from embedl_deploy.quantize.stubs import quantizers_of

_MOST = 24
"""Groups at most; where there are more, layers of different shapes share one."""


@dataclass(frozen=True)
class Group:
    """Fused modules that are quantized together or not at all.

    Attributes:
        name: Their path with `*` for numbers, and the shape of the weight where groups share that.
        kind: Class of the fused modules.
        paths: Of the modules.
    """

    name: str
    kind: str
    paths: tuple[str, ...]

    def skips(self, fused: Sequence[str]) -> tuple[str, ...]:
        """Path patterns that select these of all fused modules, as `QuantConfig.skip` takes them.

        Args:
            fused: Paths of all fused modules of the model.
        """
        pattern = _starred(self.paths[0])
        chosen = {path for path in fused if Skip(pattern).fits(path, FusedModule())}
        return (pattern,) if chosen == set(self.paths) else self.paths


def groups_of(model: fx.GraphModule) -> tuple[Group, ...]:
    """The groups of a quantized model, in the order in which they first run.

    Modules of one class, depthwise or not, whose paths differ in numbers alone and whose weights
    have the same shapes; where that makes more than 24 groups, shapes do not count.

    Args:
        model: A model from `insert_qdq`.
    """
    found = measured_modules(model)
    fine = _grouped(found, shapes=True)
    groups = fine if len(fine) <= _MOST else _grouped(found, shapes=False)
    names = [_starred(paths[0]) for paths in groups]
    return tuple(
        Group(
            name if names.count(name) == 1 else f"{name} {_shape(found[paths[0]])}",
            type(found[paths[0]]).__name__,
            paths,
        )
        for name, paths in zip(names, groups, strict=True)
    )


def quantizers_by_group(
    model: fx.GraphModule, groups: Sequence[Group]
) -> dict[str, set[nn.Module]]:
    """The stubs that each group reads, and the quantizers inside its modules, by its name."""
    modules = dict(model.named_modules())
    read: dict[str, set[nn.Module]] = defaultdict(set)
    for node in model.graph.nodes:
        if node.op == "call_module":
            path = str(node.target)
            read[path] |= {*stubs_before(node, modules).values(), *quantizers_of(modules[path])}
    return {group.name: set().union(*(read[path] for path in group.paths)) for group in groups}


def _grouped(found: dict[str, FusedModule], *, shapes: bool) -> list[tuple[str, ...]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for path, module in found.items():
        sizes = _sizes(module)
        key = sizes if shapes else [one[1:2] == (1,) for one in sizes]
        groups[(_starred(path), type(module), tuple(key))].append(path)
    return [tuple(paths) for paths in groups.values()]


def _sizes(module: FusedModule) -> list[tuple[int, ...]]:
    return [tuple(module.unrounded(path).shape) for path in module.weights()]


def _shape(module: FusedModule) -> str:
    sizes = _sizes(module)
    return "×".join(map(str, sizes[0])) if sizes else ""


def _starred(path: str) -> str:
    return ".".join("*" if name.isdecimal() else name for name in path.split("."))
