"""What may be rescaled: a transformed model without quantizers."""

from torch import fx

from embedl_deploy.batches import device_of
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.rewrite import Result


def rescalable(result: Result | fx.GraphModule, name: str) -> fx.GraphModule:
    """The model of a result.

    Args:
        result: What a function was given.
        name: The function's.

    Raises:
        QuantizationError: It is none of `transform`, has quantizers or has no values.
    """
    model = result.model if isinstance(result, Result) else result
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"{name} takes the result of transform(), not a {type(model).__name__}"
        )
    if quantizers_of(model):
        raise QuantizationError(
            f"the model has quantizers, whose scales would be wrong; call {name}() on the result "
            "of transform(), before insert_qdq()"
        )
    device = device_of(model)
    if device is not None and device.type == "meta":
        raise QuantizationError("the model is on the meta device, where nothing has a value")
    return model
