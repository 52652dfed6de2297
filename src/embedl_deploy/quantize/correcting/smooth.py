"""SmoothQuant: outliers of activations moved into weights, exactly."""

from collections.abc import Iterable
from typing import Any

from torch import fx

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.calibrating.calibrate import Progress
from embedl_deploy.quantize.correcting.rescale.factors import chosen, put_in
from embedl_deploy.quantize.correcting.rescale.models import rescalable
from embedl_deploy.quantize.correcting.rescale.observe import observed
from embedl_deploy.quantize.correcting.rescale.report import Rescaling, rescaling
from embedl_deploy.quantize.correcting.rescale.walk import walk
from embedl_deploy.rewrite import Result


def smooth(
    result: Result | fx.GraphModule,
    data: Iterable[Any],
    *,
    alpha: float = 0.5,
    progress: Progress | None = None,
) -> Rescaling:
    """Move outlier channels of activations into weights, exactly in floating point.

    SmoothQuant (Xiao et al. 2023, arXiv 2211.10438) rests on `X·W = (X/s)·(s·W)` for a factor on
    each channel: the tensor X has one scale, which a few large channels make too coarse for the
    others, while a weight has room to take them up. With `s = max|X|^α / max|W|^(1-α)` both share
    the burden. The inverse goes into whatever gives X: a norm's weight and bias, or the output
    channels of a convolution or linear layer, also through ReLU, pooling, residual additions,
    operations that copy values, and as the value through attention. Since a weight's rows have
    scales of their own, `max|W|` is the largest share that a column has of a row's range; where a
    row has one column (depthwise), `s = max|X|`.

    Queries and keys: `(Q·D)(K/D)ᵀ = QKᵀ`, with `D = √(max|K| / max|Q|)` for each channel of a head;
    channels that a rotary embedding mixes, or heads that share a key, have one D.

    The model is changed in place: weights, biases and factors of norms. Names and shapes of its
    state dict stay, and a factor that not all readers of a channel can take is not used at all.

    Args:
        result: What `transform` returned, or its model.
        data: Representative batches; see `calibrate`. They run once, in eval mode; of each
            channel the largest magnitude is kept. Where `torch.distributed` is initialized, every
            process brings data of its own, and all get the same factors.
        alpha: How much of the burden the weights take: 0 leaves it to the activations, 1 makes
            these alike.
        progress: Called after every batch.

    Returns:
        What was changed where, and what was left and why; prints as a table.

    Raises:
        CalibrationError: There is no data, a batch does not fit the model, or values are not
            finite.
        QuantizationError: The model is none of `transform`, or has quantizers already.
    """
    model = rescalable(result, "smooth")
    if not 0 <= alpha <= 1:
        raise QuantizationError(f"alpha lies in [0, 1], {alpha} does not")
    ranges, shapes = observed(model, data, progress)
    channels = walk(model, shapes)
    factors = chosen(channels, lambda reading, _: ranges[reading.key], alpha)
    put_in(channels, factors)
    return rescaling(channels, factors)
