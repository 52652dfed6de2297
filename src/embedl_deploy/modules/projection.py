"""The input projections of multi-head attention."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule, LeafModule
from embedl_deploy.modules.parts import Part, ProjectionPart
from embedl_deploy.modules.points import QDQPoint


class MHAInProjection(LeafModule):
    """The input projections of multi-head attention, split into heads.

    Holds the parameters of an `nn.MultiheadAttention`: one packed `in_proj_weight`, or three
    weights where key and value have sizes of their own. One of two parts makes key and value alone.

    Args:
        num_heads: Number of attention heads.
        batch_first: Whether batched inputs are (N, L, E) and not (L, N, E).
        in_proj_weight: Packed weight (parts·E, E), or `None`.
        in_proj_bias: Packed bias (parts·E), or `None`.
        separate_weights: Query, key and value weights where nothing is packed.
        key_bias: Whether the bias is added to the keys too; otherwise it is zero there.
        separate_biases: Query, key and value biases where no bias is packed.
        parts: 3, or 2 without the query.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        batch_first: bool,
        in_proj_weight: nn.Parameter | None,
        in_proj_bias: nn.Parameter | None,
        separate_weights: tuple[nn.Parameter | None, ...] = (None, None, None),
        key_bias: bool = True,
        separate_biases: tuple[nn.Parameter | None, ...] = (None, None, None),
        parts: int = 3,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.key_bias = key_bias
        self.in_proj_weight = in_proj_weight
        self.in_proj_bias = in_proj_bias
        self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = separate_weights
        self.q_proj_bias, self.k_proj_bias, self.v_proj_bias = separate_biases

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> Self:
        """The input projection of `attention`, with the same parameters."""
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        return cls(
            attention.num_heads,
            batch_first=attention.batch_first,
            in_proj_weight=attention.in_proj_weight,
            in_proj_bias=attention.in_proj_bias,
            separate_weights=separate,
        )

    def forward(self, query: Tensor | None, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Project, without the query where there are two parts.

        Shapes: each (N, L, E), (L, N, E) or (L, E) to (N, heads, L, E/heads).
        """
        weights: Any = self.in_proj_weight
        if weights is None:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return self.project((query, key, value), weights)

    def project(
        self, inputs: Sequence[Tensor | None], weights: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Project with the given weights instead of the module's own."""
        given: Any = inputs[-self.parts :]
        if isinstance(weights, Tensor) and all(one is given[0] for one in given):
            return self.split(F.linear(given[0], weights, self.added_bias()))
        own = weights.chunk(self.parts) if isinstance(weights, Tensor) else weights[-self.parts :]
        triples = zip(given, own, self.biases(), strict=True)
        return tuple(self._heads(F.linear(x, w, b)) for x, w, b in triples)

    def split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Each part by heads, of what one packed weight (parts·E, E) made."""
        return self._heads(projected, self.parts).unbind(0)

    def added_bias(self) -> Tensor | None:
        """The packed bias that is added, or `None`."""
        if self.in_proj_bias is None or self.key_bias:
            return self.in_proj_bias
        query, key, value = self.in_proj_bias.chunk(3)
        return torch.cat((query, torch.zeros_like(key), value))

    def biases(self) -> tuple[Tensor | None, ...]:
        """What is added to each part."""
        bias = self.added_bias()
        if bias is not None:
            return bias.chunk(self.parts)
        return (self.q_proj_bias, self.k_proj_bias, self.v_proj_bias)[-self.parts :]

    def _heads(self, projected: Tensor, *parts: int) -> Tensor:
        """Split (…, L, E) into (…, heads, L, E/heads); with a number of parts, these come first."""
        if projected.dim() == 3 and not self.batch_first:
            projected = projected.transpose(0, 1)
        split = projected.unflatten(-1, (*parts, self.num_heads, -1))
        return split.transpose(-3, -2) if not parts else split.movedim(-3, 0).transpose(-3, -2)


class FusedMHAInProjection(FusedModule):
    """The input projections of multi-head attention as one kernel, with a `Part` for each."""

    steps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, projection: MHAInProjection) -> None:
        super().__init__()
        self.projection = projection
        packed = projection.in_proj_weight is not None
        self.parts = tuple(
            ProjectionPart(
                "projection",
                "in_proj_weight" if packed else f"{name[0]}_proj_weight",
                argument=name,
                place=place,
                parts=projection.parts,
                packed=packed,
            )
            for place, name in enumerate(("query", "key", "value")[-projection.parts :])
        )

    def unpacked(self, split: Callable[[nn.Module, Part], nn.Module]) -> FusedModule:
        """A weight and bias for each part in place of packed ones."""
        packed = self.projection.in_proj_weight
        if packed is None:
            return self
        weights = [part.share(packed) for part in self.parts]
        biases = [part.bias_of(self) if part.shifts(self) else None for part in self.parts]
        projection = MHAInProjection(
            self.projection.num_heads,
            batch_first=self.projection.batch_first,
            in_proj_weight=None,
            in_proj_bias=None,
            separate_weights=_constants(weights),
            separate_biases=_constants(biases),
            parts=self.projection.parts,
        )
        result = FusedMHAInProjection(projection).train(self.training)
        for part, own in zip(self.parts, result.parts, strict=True):
            if (quantizer := self.quantizer(part.weight)) is not None:
                result.set_quantizer(own.weight, split(quantizer, part))
        return result

    def packed(self, weight: nn.Module, after: Callable[[Tensor | None], nn.Module]) -> FusedModule:
        """One product of the packed weight, split into heads after what follows it."""
        if self.projection.in_proj_weight is None:
            return self
        bias = self.projection.added_bias()
        result = PackedProjection(self.projection, after(None if bias is None else bias.detach()))
        result.set_quantizer(self.parts[0].weight, weight)
        return result.train(self.training)

    @classmethod
    def quantized_arguments(cls, point: QDQPoint) -> tuple[str, ...]:
        """`INPUT` is whatever enters a projection; for self-attention that is one tensor."""
        return ("query", "key", "value") if point is QDQPoint.INPUT else ()

    def forward(self, query: Tensor | None, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Project; see `MHAInProjection.forward`."""
        if not self.weight_quantizers:
            result: tuple[Tensor, ...] = self.projection(query, key, value)
            return result
        weights = [self.weight(path) for path in self.weights()]
        packed = weights[0] if len(weights) == 1 else weights
        return self.projection.project((query, key, value), packed)


class PackedProjection(FusedMHAInProjection):
    """All parts of one input by one product: a compiler keeps its type as one kernel.

    Args:
        projection: With a packed weight; called with the same tensor for each part.
        affine: What follows the product (…, L, parts·E): factors and biases of its columns.
    """

    def __init__(self, projection: MHAInProjection, affine: nn.Module) -> None:
        super().__init__(projection)
        self.affine = affine

    def unpacked(self, split: Callable[[nn.Module, Part], nn.Module]) -> FusedModule:
        """Itself: it stays packed."""
        del split
        return self

    def forward(self, query: Tensor | None, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Project; see `MHAInProjection.forward`."""
        del query, key
        product = F.linear(value, self.weight(self.parts[0].weight))
        return self.projection.split(self.affine(product))


def _constants(tensors: Sequence[Tensor | None]) -> tuple[nn.Parameter | None, ...]:
    """Parameters of query, key and value, the last of which are given."""
    given = [
        None if one is None else nn.Parameter(one.detach(), requires_grad=False) for one in tensors
    ]
    return (*[None] * (3 - len(given)), *given)
