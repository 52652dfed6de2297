"""Batches in the pieces that a file takes."""

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


def input_names(model: nn.Module) -> list[str]:
    """The inputs of a model in their order."""
    if isinstance(model, fx.GraphModule):
        return [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    return list(inspect.signature(model.forward).parameters)


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in a tree, in order."""
    return [one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor)]


def pieces(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """A batch in pieces of the size that the file fixes; whole where it fixes none."""
    tree = (args, dict(kwargs))
    rows = next((one.shape[0] for one in tensors(tree)[:1] if one.dim()), None)
    if size is None or rows is None or rows == size:
        yield tree
        return
    for start in range(0, rows - size + 1, size):
        yield pytree.tree_map_only(Tensor, partial(_cut, rows, start, size), tree)


def _cut(rows: int, start: int, size: int, tensor: Tensor) -> Tensor:
    """A piece of what goes with the batch; a tensor of another size is for all of it."""
    along = tensor.dim() > 0 and tensor.shape[0] == rows
    return tensor[start : start + size] if along else tensor
