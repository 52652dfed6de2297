"""The conservation law: each layer that the source model uses is in exactly one fused module."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from benchmarks.zoo.entry import Inputs
from embedl_deploy.modules import FusedModule

LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.LayerNorm, nn.MultiheadAttention)  # noqa: SLF001


@dataclass
class Ledger:
    """Where the layers of a model went.

    Attributes:
        used: How many layers of each kind the model calls.
        lost: Paths of layers that are in no fused module.
        twice: Paths of layers that are in more fused modules than the model calls them.
        functional: Paths of layers that are never called, but whose weights the graph reads.
    """

    used: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    functional: list[str] = field(default_factory=list)


def calls(model: nn.Module, inputs: Inputs) -> Counter[str]:
    """How often a forward pass calls each layer, by path; those in an attention are part of it."""
    named = {path: one for path, one in model.named_modules() if isinstance(one, LAYERS)}
    found: Counter[str] = Counter()
    args, kwargs = inputs
    handles = [
        one.register_forward_pre_hook(lambda *_, path=path: found.update([path]))
        for path, one in named.items()
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    whole = [path for path in found if isinstance(named[path], nn.MultiheadAttention)]
    parts = [path for path in named for one in whole if path.startswith(f"{one}.")]
    for path in parts:
        found.pop(path, None)
    return found


def ledger(model: nn.Module, called: Counter[str], result: fx.GraphModule) -> Ledger:
    """Where the called layers went; `result` shares the memory of the model's parameters."""
    fused = {path: one for path, one in result.named_modules() if isinstance(one, FusedModule)}
    homes: dict[int, set[str]] = defaultdict(set)
    for path, one in fused.items():
        for parameter in one.parameters():
            homes[parameter.data_ptr()].add(path)
    expected: Counter[int] = Counter()
    for path, count in called.items():
        expected[_address(model.get_submodule(path))] += count
    found = Ledger(functional=list(_functional(model, called, result)))
    for path in called:
        layer = model.get_submodule(path)
        found.used[_kind(layer)] += 1
        address = _address(layer)
        places = homes[address] or {path} & fused.keys()  # a computed weight lies elsewhere
        if not places:
            found.lost.append(path)
        elif address and len(places) > expected[address]:
            found.twice.append(path)
    return found


def _functional(model: nn.Module, called: Counter[str], result: fx.GraphModule) -> Iterator[str]:
    read = {
        tensor.data_ptr()
        for node in result.graph.nodes
        if node.op == "get_attr" and isinstance(tensor := _attribute(result, node), Tensor)
    }
    for path, one in model.named_modules():
        if isinstance(one, LAYERS) and path not in called and _address(one) in read:
            yield path


def _attribute(result: fx.GraphModule, node: fx.Node) -> object:
    parent, _, name = str(node.target).rpartition(".")
    return getattr(result.get_submodule(parent), name, None)


def _kind(layer: nn.Module) -> str:
    """The class of torch that the layer is of; its own class may be a subclass."""
    return next(
        kind.__name__ for kind in type(layer).__mro__ if kind.__module__.startswith("torch.")
    )


def _address(layer: nn.Module) -> int:
    """Where the layer's weight lies in memory; 0 for a layer without one."""
    named = dict(layer.named_parameters(recurse=False))
    names = ("weight", "in_proj_weight", "q_proj_weight")
    found = [named[name] for name in names if name in named]
    inner = [one for name, one in layer.named_parameters() if name.endswith("original0")]
    inner += [one for name, one in layer.named_parameters() if name.endswith("original")]
    return next((one.data_ptr() for one in (*found, *inner)), 0)
