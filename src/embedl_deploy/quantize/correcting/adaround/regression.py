"""A rounded part of a layer as a regression: rows of inputs, a matrix of weights, wanted results.

A row is one position of the layer's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from embedl_deploy.modules import LinearPart
from embedl_deploy.quantize.measuring.sidebyside import Given, LayerPair


@dataclass(frozen=True)
class Regression:
    """What a matrix of weights is given, and what it should give.

    Attributes:
        module: The fused module, for what comes after the product.
        part: The product.
        inputs: Shape (groups, rows, inputs of a group).
        bias: Added to the products, shape (channels); `None` where none is.
        residual: Shape (rows, channels); `None` where nothing is added.
        wanted: What comes out in floating point, shape (rows, channels).
    """

    module: Any
    part: LinearPart
    inputs: Tensor
    bias: Tensor | None
    residual: Tensor | None
    wanted: Tensor

    def errors(self, matrix: Tensor, rows: Tensor | slice) -> Tensor:
        """What is wrong with the results of some rows, with weights (groups, channels, inputs).

        In the type of the weights, also where the layer computes in half precision.
        """
        product = torch.bmm(self.inputs[:, rows], matrix.transpose(1, 2).to(self.inputs.dtype))
        product = product.transpose(0, 1).flatten(1)
        if self.bias is not None:
            product = product + self.bias
        residual = None if self.residual is None else self.residual[rows]
        finished = _finished(self.module, self.part, product, residual)
        return finished.to(matrix.dtype) - self.wanted[rows]


def regressions(layer: LayerPair, rows: int, generator: Generator) -> list[Regression]:
    """The regressions of a layer, one for each part.

    Args:
        layer: A layer before it runs.
        rows: How many positions to draw, evenly over the batches; fewer where there are fewer.
        generator: Draws them.
    """
    each = -(-rows // len(layer.given))
    calls = zip(layer.given, layer.wanted, strict=True)
    samples = [_sampled(layer, given, wanted, each, generator) for given, wanted in calls]
    return [_joined(parts) for parts in zip(*samples, strict=True)]


def matrix(module: Any, part: LinearPart, weight: Tensor) -> Tensor:
    """A weight, or a tensor of its shape, as a matrix (groups, channels, inputs)."""
    return part.matrix(module, weight).flatten(2)


def assembled(module: Any, path: str, matrices: Sequence[Tensor], like: Tensor) -> Tensor:
    """The weight at a path from the matrices of all parts: the way back from `matrix`."""
    weight = torch.empty_like(like)
    for part, one in zip(module.products, matrices, strict=True):
        if part.weight == path:
            view = part.matrix(module, weight)
            view.copy_(one.view_as(view))
    return weight


def _sampled(
    layer: LayerPair, given: Given, wanted: Given, rows: int, generator: Generator
) -> list[Regression]:
    """The regressions of a layer at some positions of one batch."""
    found = []
    for part in layer.module.products:
        product = part.product(layer.reference, wanted)
        flat = product.flatten(0, -2)
        drawn = torch.randperm(len(flat), generator=generator)[:rows].sort().values.to(flat.device)
        residual = _residual(layer.module, part, given, product, drawn)
        its = _residual(layer.reference, part, wanted, product, drawn)
        result = _finished(layer.reference, part, flat[drawn], its)
        inputs = part.rows(layer.module, given, product, drawn)
        bias = part.bias_of(layer.module) if part.shifts(layer.module) else None
        found.append(Regression(layer.module, part, inputs, bias, residual, result))
    return found


def _joined(parts: Sequence[Regression]) -> Regression:
    residuals = [one.residual for one in parts if one.residual is not None]
    return replace(
        parts[0],
        inputs=torch.cat([one.inputs for one in parts], 1),
        residual=torch.cat(residuals) if residuals else None,
        wanted=torch.cat([one.wanted for one in parts]),
    )


def _residual(
    module: Any, part: LinearPart, given: Given, product: Tensor, drawn: Tensor
) -> Tensor | None:
    residual = given.get("residual") if module.described else None
    if residual is None:
        return None
    return part.channels_last(module, residual).expand_as(product).flatten(0, -2)[drawn]


def _finished(module: Any, part: LinearPart, product: Tensor, residual: Tensor | None) -> Tensor:
    """What a kernel gives for products (rows, channels), before any pooling.

    The products themselves where the module does not say what comes after them.
    """
    if not module.described:
        return product
    given = [product] if residual is None else [product, residual]
    spread = (..., *[None] * part.spatial(module))
    result: Tensor = module.finish(*(one[spread] for one in given))
    return result.flatten(1)
