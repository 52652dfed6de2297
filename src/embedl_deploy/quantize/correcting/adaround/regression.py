"""A rounded layer as a regression: rows of inputs, a matrix of weights, rows of wanted results.

A row is one position of the layer's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from embedl_deploy.modules import FusedMHAInProjection
from embedl_deploy.modules.conv import FusedConvTransposeBN
from embedl_deploy.modules.linear import FusedLinear
from embedl_deploy.quantize.correcting.adaround.windows import flipped, window_rows
from embedl_deploy.quantize.correcting.products import channels_last, dimensions, products
from embedl_deploy.quantize.measuring.sidebyside import Given, Layer


@dataclass(frozen=True)
class Regression:
    """What a matrix of weights is given, and what it should give.

    Attributes:
        module: The fused module, for what comes after the product.
        inputs: Shape (groups, rows, inputs of a group).
        bias: Added to the products, shape (channels); `None` where none is.
        residual: Shape (rows, channels); `None` where nothing is added.
        wanted: What comes out in floating point, shape (rows, channels).
    """

    module: Any
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
        return _finished(self.module, product, residual).to(matrix.dtype) - self.wanted[rows]


def regressions(layer: Layer, rows: int, generator: Generator) -> list[Regression]:
    """The regressions of a layer: one, or those of query, key and value.

    Args:
        layer: A layer before it runs.
        rows: How many positions to draw, evenly over the batches; fewer where there are fewer.
        generator: Draws them.
    """
    each = -(-rows // len(layer.given))
    calls = zip(layer.given, layer.wanted, strict=True)
    samples = [_sampled(layer, given, wanted, each, generator) for given, wanted in calls]
    return [_joined(parts) for parts in zip(*samples, strict=True)]


def matrices(module: Any, weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights of a module as matrices (groups, channels, inputs), one for each regression."""
    match module:
        case FusedMHAInProjection():
            parts = weights[0].chunk(3) if len(weights) == 1 else weights
            return [part[None] for part in parts]
        case FusedLinear():
            return [weights[0][None]]
        case FusedConvTransposeBN():
            return [flipped(weights[0]).flatten(1)[None]]
    return [weights[0].unflatten(0, (module.conv.groups, -1)).flatten(2)]


def weights_of(module: Any, parts: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Matrices as weights of a module: the way back from `matrices`."""
    match module:
        case FusedMHAInProjection():
            rows = [part[0] for part in parts]
            return [torch.cat(rows)] if len(like) == 1 else rows
        case FusedConvTransposeBN():
            return [flipped(parts[0].reshape(like[0].transpose(0, 1).shape))]
    return [parts[0].reshape(like[0].shape)]


def _sampled(
    layer: Layer, given: Given, wanted: Given, rows: int, generator: Generator
) -> list[Regression]:
    """The regressions of a layer at some positions of one batch."""
    found = []
    for part, product in enumerate(products(layer.reference, wanted)):
        flat = product.flatten(0, -2)
        drawn = torch.randperm(len(flat), generator=generator)[:rows].sort().values.to(flat.device)
        inputs = _inputs(layer.module, given, part, product, drawn)
        bias = _bias(layer.module, part)
        residual = _residual(layer.module, given, product, drawn)
        its = _residual(layer.reference, wanted, product, drawn)
        result = _finished(layer.reference, flat[drawn], its)
        found.append(Regression(layer.module, inputs, bias, residual, result))
    return found


def _joined(parts: Sequence[Regression]) -> Regression:
    residuals = [one.residual for one in parts if one.residual is not None]
    return replace(
        parts[0],
        inputs=torch.cat([one.inputs for one in parts], 1),
        residual=torch.cat(residuals) if residuals else None,
        wanted=torch.cat([one.wanted for one in parts]),
    )


def _inputs(module: Any, given: Given, part: int, product: Tensor, drawn: Tensor) -> Tensor:
    """What products are made of at some positions, shape (groups, rows, inputs of a group)."""
    match module:
        case FusedMHAInProjection():
            tensor: Tensor = (given["query"], given["key"], given["value"])[part]
            if tensor.dim() == 3 and not module.projection.batch_first:
                tensor = tensor.transpose(0, 1)
            return tensor.flatten(0, -2)[drawn][None]
        case FusedLinear():
            return given["input"].flatten(0, -2)[drawn][None]
    return window_rows(module, given["input"], product, drawn)


def _bias(module: Any, part: int) -> Tensor | None:
    match module:
        case FusedMHAInProjection():
            bias = module.projection.added_bias()
            return None if bias is None else bias.chunk(3)[part]
        case FusedLinear():
            return module.linear.bias
    return module.conv.bias


def _residual(module: Any, given: Given, product: Tensor, drawn: Tensor) -> Tensor | None:
    residual = given.get("residual")
    if residual is None:
        return None
    return channels_last(module, residual).expand_as(product).flatten(0, -2)[drawn]


def _finished(module: Any, product: Tensor, residual: Tensor | None) -> Tensor:
    """What a kernel gives for products (rows, channels), before any pooling."""
    if isinstance(module, FusedMHAInProjection):
        return product
    given = [product] if residual is None else [product, residual]
    spread = (..., *[None] * dimensions(module))
    result: Tensor = module.finish(*(one[spread] for one in given))
    return result.flatten(1)
