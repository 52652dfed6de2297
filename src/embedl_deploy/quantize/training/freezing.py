"""What a training loop does with a quantized model, beside training it: freezing, and groups."""

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules.frozen import FROZEN, FrozenBatchNorm
from embedl_deploy.quantize.stubs import quantizers_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def freeze_batch_norm(model: ModuleT, *, affine: bool = False) -> ModuleT:
    """Freeze the statistics of all batch norms, for all that `train()` is called later.

    Their factors and shifts train on. The names in the state dict stay as they are. What makes new
    batch norms comes before: `transform`, and `nn.SyncBatchNorm.convert_sync_batchnorm`.

    Args:
        model: A transformed or quantized model; changed in place and returned.
        affine: Whether factors and shifts are frozen too.

    Raises:
        QuantizationError: There is a kind of batch norm that PyTorch does not have.
    """
    for path, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if not isinstance(module, FrozenBatchNorm):
            kind = FROZEN.get(type(module))
            if kind is None:
                raise QuantizationError(
                    f"'{path}' is a {type(module).__name__}, a batch norm of an unknown kind; call "
                    "its eval() after every train()"
                )
            module.__class__ = kind
        module.eval()
        if affine:
            module.requires_grad_(False)
    return model


def freeze(model: ModuleT) -> ModuleT:
    """End training: eval mode, batch norms frozen, scales final, and nothing takes a gradient.

    Scales that were learned are buffers from here on. The names in the state dict stay.

    Args:
        model: A quantized model; changed in place and returned.
    """
    freeze_batch_norm(model.eval())
    for quantizer in quantizers_of(model):
        quantizer.fix()
    return model.requires_grad_(False)


def scale_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The scales that are learned, each once, for a parameter group of their own.

    They want no weight decay, and with an optimizer that normalizes gradients (Adam) a learning
    rate that is small beside them.
    """
    scales = [one.scale for one in quantizers_of(model)]
    return list(dict.fromkeys(one for one in scales if isinstance(one, nn.Parameter)))
