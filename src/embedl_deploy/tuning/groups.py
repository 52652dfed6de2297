"""Equal layers as one group: what is quantized or left is decided for all of them."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import Skip
from embedl_deploy.quantize.measuring.onepass import measured_modules, stubs_before
from embedl_deploy.quantize.stubs import quantizers_of

_MOST = 24
"""Groups at most; where there are more, numbers within names and then shapes do not count."""


@dataclass(frozen=True)
class Group:
    """Fused modules that are quantized together or not at all.

    Attributes:
        name: Their path with `*` for numbers, and where groups share that the shape of the weight,
            then the class and a number.
        kind: Class of the fused modules.
        paths: Of the modules.
        pattern: Their path with `*`.
    """

    name: str
    kind: str
    paths: tuple[str, ...]
    pattern: str

    def skips(self, fused: Sequence[str]) -> tuple[str, ...]:
        """Path patterns that select these of all fused modules, as `QuantConfig.skip` takes them.

        Args:
            fused: Paths of all fused modules of the model.
        """
        chosen = {path for path in fused if Skip(self.pattern).fits(path, FusedModule())}
        return (self.pattern,) if chosen == set(self.paths) else self.paths


def groups_of(model: fx.GraphModule) -> tuple[Group, ...]:
    """The groups of a quantized model, in the order in which they first run.

    Modules of one class, depthwise or not, whose paths differ in numbers alone (`blocks.0.fc`) and
    whose weights have the same shapes. Where that makes more than 24 groups, numbers in the names
    of the modules around them do not count either (`encoder_layer_0.fc`), and then shapes.

    Args:
        model: A model from `insert_qdq`.
    """
    found = measured_modules(model)
    ways = ((_numbers, True), (_numbers_within, True), (_numbers_within, False))
    made = [(starred, _grouped(found, starred, shapes=shapes)) for starred, shapes in ways]
    starred, groups = next((one for one in made if len(one[1]) <= _MOST), made[-1])
    patterns = names = [starred(paths[0]) for paths in groups]
    kinds = [type(found[paths[0]]).__name__ for paths in groups]
    shapes = [_shape(found[paths[0]]) for paths in groups]
    for more in (
        shapes,
        [one.removeprefix("Fused") for one in kinds],
        map(str, range(len(groups))),
    ):
        told = zip(names, more, strict=True)
        names = [one if names.count(one) == 1 else f"{one} {what}".rstrip() for one, what in told]
    return tuple(map(Group, names, kinds, groups, patterns))


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


def _grouped(
    found: dict[str, FusedModule], starred: Callable[[str], str], *, shapes: bool
) -> list[tuple[str, ...]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for path, module in found.items():
        sizes = _sizes(module)
        key = sizes if shapes else [one[1:2] == (1,) for one in sizes]
        groups[(starred(path), type(module), tuple(key))].append(path)
    return [tuple(paths) for paths in groups.values()]


def _sizes(module: FusedModule) -> list[tuple[int, ...]]:
    return [tuple(module.unrounded(path).shape) for path in module.weights()]


def _shape(module: FusedModule) -> str:
    sizes = _sizes(module)
    return "×".join(map(str, sizes[0])) if sizes else ""


def _numbers(path: str) -> str:
    return ".".join("*" if name.isdecimal() else name for name in path.split("."))


def _numbers_within(path: str) -> str:
    """Also those within the names before the last: `stage*.block_*.conv1`."""
    around, dot, name = _numbers(path).rpartition(".")
    return f"{re.sub(r'[0-9]+', '*', around)}{dot}{name}"
