"""How far two outputs are apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.zoo.entry import Inputs


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors of the output, in inference; a model that writes to its inputs gets copies."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (inputs[0], dict(inputs[1])))
    with torch.no_grad():
        return tensors(model(*args, **kwargs))


def tensors(tree: object) -> list[Tensor]:
    """All tensors in containers of any kind, in order."""
    if isinstance(tree, Mapping):
        return [leaf for one in tree.values() for leaf in tensors(one)]
    if isinstance(tree, tuple | list):
        return [leaf for one in tree for leaf in tensors(one)]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def difference(want: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The largest |want - got| / largest |want|, over all tensors.

    Raises:
        ValueError: They are not of one shape, or not finite.
    """
    shapes = [[tuple(one.shape) for one in some] for some in (want, got)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the model gives tensors of shapes {shapes[0]}, its graph {shapes[1]}")
    return max(map(_apart, want, got), default=0.0)


def _apart(want: Tensor, got: Tensor) -> float:
    mine, its = want.double(), got.double()
    if not mine.isfinite().all():
        raise ValueError("the source model's output is not finite: no comparison")
    if not its.isfinite().all():
        raise ValueError("the output of the graph is not finite, that of the model is")
    largest = float(mine.abs().max()) if mine.numel() else 0.0
    error = float((mine - its).abs().max()) if mine.numel() else 0.0
    return error / largest if largest else error


def weakness(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> str | None:
    """Why equality of these outputs would say little; `others` are those of other inputs."""
    if not outputs:
        return "the model gives no tensor"
    if all(one.numel() > 1 and float(one.double().std()) == 0 for one in outputs):
        return "the output is constant"
    if difference(outputs, others) < 1e-2:
        return "the output hardly depends on the input"
    return None


def converted(tree: Any, dtype: torch.dtype) -> Any:
    """Inputs with their floating-point tensors of another type."""
    return pytree.tree_map_only(
        Tensor, lambda one: one.to(dtype) if one.is_floating_point() else one, tree
    )
