"""What the file computes with: modules that become the ONNX operators a compiler looks for."""

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules.attention import fill_hidden
from embedl_deploy.quantize import QuantStub
from embedl_deploy.quantize.rounding import per_channel


class QuantizeDequantize(nn.Module):
    """A stub as the pair of ONNX operators.

    Both scales have the same value. The first has the type of what is quantized, the second that
    of what reads the result: so a tensor that stays in float32 needs no cast before its pair.
    """

    input_scale: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, stub: QuantStub) -> None:
        super().__init__()
        self.register_buffer("input_scale", stub.scale)
        self.register_buffer("scale", stub.scale)
        self.register_buffer("zero_point", torch.zeros_like(stub.scale).to(stub.grid.dtype))
        self.limits = (stub.lowest, stub.highest) if stub.config.bits < 8 else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Quantize and dequantize; any shape, unchanged."""
        scale = self.scale if input.dtype == self.scale.dtype else self.input_scale
        if self.limits is not None:
            lowest, highest = (limit * scale for limit in self.limits)
            input = input.clamp(lowest, highest)  # noqa: A001
        return dequantize(quantize(input, scale, self.zero_point), self.scale, self.zero_point)

    def twin(self) -> Self:
        """Another pair of the same tensors."""
        other = copy.copy(self)
        other._buffers, other._modules = dict(self._buffers), {}  # noqa: SLF001 - a copy shares them
        return other


class QuantizeDequantizeQuery(QuantizeDequantize):
    """The stub of a query, and the factor on the logits before it.

    `round(q·f / (s·f))` gives the integers of `round(q / s)`, and dequantized they are `f` times
    as large: the factor stands upstream of the pair, where it parts no `DequantizeLinear` from
    the matrix multiplication, and no integer changes.
    """

    def __init__(self, stub: QuantStub, factor: float) -> None:
        super().__init__(stub)
        self.factor = factor
        self.scale = self.input_scale = stub.scale * factor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Scale, quantize and dequantize; any shape, unchanged."""
        return super().forward(input * self.factor)


class QuantizeDequantizeKey(QuantizeDequantize):
    """The stub of a key, transposed before it: the pair is next to the matrix multiplication."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Transpose, quantize and dequantize. Shapes: (…, S, E) to (…, E, S)."""
        return super().forward(input.transpose(-2, -1))


class DequantizedWeight(nn.Module):
    """A stored weight and its `DequantizeLinear`; stands in for the weight's quantizer.

    Without an axis it has one scale.

    It runs as well: the stored numbers times their scales. Blocks are told by a scale of two
    dimensions; they need no zero-point, since a `DequantizeLinear` without one has zero.
    """

    stored: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, stored: Tensor, scale: Tensor, axis: int | None) -> None:
        super().__init__()
        self.axis = axis
        blocks = scale.dim() > 1
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale)
        zero_point = None if blocks else torch.zeros_like(scale).to(stored.dtype)
        self.register_buffer("zero_point", zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, per output channel; the argument gives the type where it is run."""
        if not torch.onnx.is_in_onnx_export():
            return self.values().to(weight.dtype)
        return dequantize(self.stored, self.scale, self.zero_point, axis=self.axis)

    def values(self) -> Tensor:
        """What the stored numbers stand for."""
        numbers = self.stored.to(self.scale.dtype)
        if self.axis is None:
            return numbers * self.scale
        return numbers * per_channel(self.scale, numbers, self.axis)


class QuantizedWeight(nn.Module):
    """A weight stored in floating point after a pair, already rounded to multiples of its scale.

    So it quantizes to the numbers that were simulated, also where a batch norm is folded in.
    """

    rounded: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, weight: DequantizedWeight) -> None:
        super().__init__()
        self.axis = weight.axis
        self.register_buffer("rounded", weight.values())
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero_point", weight.zero_point)

    def forward(self, _: Tensor) -> Tensor:
        """The weight, per output channel."""
        stored = quantize(self.rounded, self.scale, self.zero_point, axis=self.axis)
        return dequantize(stored, self.scale, self.zero_point, axis=self.axis)


def quantize(tensor: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    """The ONNX operator; `axis` is always written where there is one scale per channel."""
    return torch.onnx.ops.symbolic(
        "QuantizeLinear",
        (tensor, scale, zero_point),
        attrs={} if axis is None else {"axis": axis},
        dtype=zero_point.dtype,
        shape=tensor.shape,
    )


def dequantize(
    stored: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None
) -> Tensor:
    """The ONNX operator; a scale of two dimensions is one for each block of a row."""
    along = {} if axis is None else {"axis": axis}
    if scale.dim() > 1:
        along = {"axis": 1, "block_size": stored.shape[1] // scale.shape[1]}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (stored, scale) if zero_point is None else (stored, scale, zero_point),
        attrs={**along},
        dtype=scale.dtype,
        shape=stored.shape,
    )


class SmallEpsRMSNorm(nn.Module):
    """An RMS norm whose `eps` is a tensor, in float32 within: the exporter takes a number for zero.

    Where it is not small the exporter's own operators say the same.
    """

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        assert norm.eps is not None  # noqa: S101 - by its caller
        self.dims = [*range(-len(norm.normalized_shape), 0)]
        self.eps = norm.eps
        self.weight = norm.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Normalise; any shape, unchanged."""
        wide = input.float()
        square = wide.pow(2).mean(self.dims, keepdim=True)
        normal = wide * (square + torch.full((1,), self.eps)).rsqrt()
        return (normal if self.weight is None else normal * self.weight.float()).to(input.dtype)


class GlobalAveragePool(nn.Module):
    """Average over height and width as the one ONNX operator that TensorRT has a kernel for."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Pool. Shapes: (N, C, H, W) to (N, C, 1, 1); without N, the operator would read it."""
        if input.dim() != 4:
            return F.adaptive_avg_pool2d(input, 1)
        shape = (*input.shape[:-2], 1, 1)
        return torch.onnx.ops.symbolic(
            "GlobalAveragePool", (input,), dtype=input.dtype, shape=shape
        )


class GlobalMaxPool(nn.Module):
    """Maximum over height and width; the exporter of torch 2.8 has no adaptive one."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Pool. Shapes: (…, H, W) to (…, 1, 1)."""
        return input.amax((-2, -1), keepdim=True)


class GridAveragePool(nn.Module):
    """Average to a grid, as plain pooling where the cells are of one size.

    The exporter spells adaptive pooling in float32.
    """

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.output_size = pool.output_size

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Pool. Shapes: (…, H, W) to (…, *output_size)."""
        both = self.output_size
        wanted = both if isinstance(both, tuple) else (both, both)
        sizes = input.shape[-2:]
        grid = tuple(size if to is None else to for size, to in zip(sizes, wanted, strict=True))
        if any(size % to for size, to in zip(sizes, grid, strict=True)):
            return F.adaptive_avg_pool2d(input, (grid[0], grid[1]))
        return F.avg_pool2d(input, [size // to for size, to in zip(sizes, grid, strict=True)])


class MatMulAttention(nn.Module):
    """Attention as multiplication, softmax and multiplication.

    Args:
        factor: On the query; `None` where it is before the query's pair already.
        transposed: Whether the key comes transposed.
        is_causal: Whether a position attends to none after it.
        enable_gqa: Whether several query heads share one key and value head.
        fill: What hidden logits become.
        fill_first: Whether they do before the mask is added.
        probabilities: The stub, then the pair, of what the softmax gives.
    """

    def __init__(
        self,
        factor: float | None,
        *,
        transposed: bool,
        is_causal: bool,
        enable_gqa: bool,
        fill: float | None,
        fill_first: bool,
        probabilities: nn.Module | None,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.transposed = transposed
        self.is_causal = is_causal
        self.enable_gqa = enable_gqa
        self.fill = fill
        self.fill_first = fill_first
        self.softmax = nn.Softmax(-1)
        self.softmax_type: torch.dtype | None = None
        self.probabilities = probabilities

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Attend. Shapes as in `ScaledDotProductAttention`; a transposed key (…, heads, E, S)."""
        query = query if self.factor is None else query * self.factor
        key = key if self.transposed else key.transpose(-2, -1)
        if self.enable_gqa:
            shared = query.shape[-3] // key.shape[-3]
            key, value = (one.repeat_interleave(shared, -3) for one in (key, value))
        logits = query @ key
        if self.is_causal:
            attn_mask = logits.new_ones(logits.shape[-2:], dtype=torch.bool).tril()
        mask = None if attn_mask is None else _bias(attn_mask, logits)
        if hidden is not None:
            logits = fill_hidden(logits, mask, hidden, self.fill, first=self.fill_first)
        elif mask is not None:
            logits = logits + mask
        kept = logits if self.softmax_type is None else logits.to(self.softmax_type)
        weights: Tensor = self.softmax(kept)
        if self.probabilities is not None:
            weights = self.probabilities(weights)
        return weights.to(value.dtype) @ value


def _bias(mask: Tensor, logits: Tensor) -> Tensor:
    """What to add to the logits; a boolean `True` lets a position be seen."""
    if mask.dtype != torch.bool:
        return mask.to(logits.dtype)
    return torch.zeros_like(mask, dtype=logits.dtype).masked_fill(~mask, float("-inf"))
