"""A model's copy on the CPU, where every file is made, so that no device decides on its bytes."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

HOST = torch.device("cpu")


def on_host(model: fx.GraphModule) -> fx.GraphModule:
    """A copy on the CPU; it shares the tensors that are there already."""
    kept = {id(one): _moved(one) for one in _tensors(model)}
    copied: fx.GraphModule = copy.deepcopy(model, kept)
    for node in copied.graph.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _named)
    copied.recompile()
    return copied


def _tensors(model: nn.Module) -> list[Tensor]:
    """The tensors of a model; those that are plain attributes where they are elsewhere."""
    plain = [one for module in model.modules() for one in vars(module).values()]
    elsewhere = [one for one in plain if isinstance(one, Tensor) and one.device != HOST]
    return [*model.parameters(), *model.buffers(), *elsewhere]


def _moved(tensor: Tensor) -> Tensor:
    if tensor.device == HOST:
        return tensor
    moved = tensor.detach().to(HOST)
    if not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved, requires_grad=tensor.requires_grad)


def _named(argument: Any) -> Any:
    """An argument of a call; the CPU where it is another device."""
    return HOST if isinstance(argument, torch.device) else argument
