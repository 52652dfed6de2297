"""The tensors of a module that its file stores."""

from collections.abc import Iterator

from torch import Tensor, nn

from embedl_deploy.modules import FusedModule


def replace_tensor(owner: nn.Module, name: str, tensor: Tensor) -> None:
    """Put another tensor into a module; the old one may be shared with the user's model."""
    parameter = isinstance(getattr(owner, name), nn.Parameter)
    setattr(owner, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)


def floating_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The floating-point tensors of a module that the file needs, by owner and name."""
    stored: set[tuple[int, str]] = set()
    for fused in module.modules():
        if isinstance(fused, FusedModule):
            for path in fused.weights():
                owner, _, name = path.rpartition(".")
                if fused.quantizer(path) is not None:
                    stored.add((id(fused.get_submodule(owner)), name))
    for owner_module in module.modules():
        for name, tensor in (*owner_module._parameters.items(), *owner_module._buffers.items()):  # noqa: SLF001 - there is no public way
            if tensor is None or not computes(tensor):
                continue
            if (id(owner_module), name) not in stored:
                yield owner_module, name


def computes(tensor: Tensor) -> bool:
    """Whether a tensor is of a type that is computed with, and not only stored, as FP8 is."""
    return tensor.is_floating_point() and tensor.itemsize > 1
