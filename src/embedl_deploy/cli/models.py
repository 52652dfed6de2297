"""A model is named in one word, and loads without ever running code from a weights file."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedl_deploy.cli.building import build_model, close_names, find_object, other_seed
from embedl_deploy.cli.weights import fill
from embedl_deploy.errors import CaptureError, LoadError

__all__ = ["ZOOS", "advising", "example_dtype", "example_shape", "load_model", "random_share"]

ZOOS = ("torchvision:", "timm:", "transformers:")
"""What names models that are built with random weights."""
_USUAL_SHAPE = (3, 224, 224)
_WORDS = 128
_NO_SINGLE_IMAGE = ("detection", "optical_flow", "video")


def load_model(spec: str, *, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """The model that `spec` names is returned in eval mode, with the weights of a file if given.

    Args:
        spec: `torchvision:NAME`, `timm:NAME` and `transformers:CLASS`, such as
            `BertForSequenceClassification`, with the default config of the class, build with
            random weights, the same each time; nothing is downloaded. A path after a name of
            torchvision is a module in it, as in `torchvision:fcn_resnet50.backbone`.
            `package.module:factory` is imported, from the current directory too; the factory is
            called without arguments, or is a model already.
        weights: A state dict in a `.pt`, `.pth` or `.safetensors` file, bare or under the key
            `state_dict` or `model`; a `module.` before all its names is taken off.

    Raises:
        LoadError: There is no such model, it cannot be built, or the weights do not fit it.
        MissingExtraError: The package of the model or of the file format is not installed.
    """
    whole, part = _parted(spec)
    model = build_model(whole)
    if weights is not None:
        fill(model, Path(weights))
    return _part(model, part, whole).eval()


def random_share(spec: str, model: nn.Module) -> float | None:
    """The share of a model's parameters that are random; `None` where that cannot be known.

    What another seed changes is random, so a factory is called again; a model that stands in a
    module already was made with whatever seed there was.

    Args:
        spec: As `load_model` takes it.
        model: What it gave, without a file of weights.
    """
    if spec.startswith(ZOOS):
        return 1.0
    if isinstance(find_object(spec), nn.Module):
        return None
    with other_seed():
        other = find_object(spec)()
    mine, its = dict(model.named_parameters()), dict(other.named_parameters())
    if mine.keys() != its.keys() or not mine:
        return None
    drawn = sum(
        one.numel()
        for name, one in mine.items()
        if one.shape != its[name].shape or not torch.equal(one, its[name])
    )
    return drawn / sum(one.numel() for one in mine.values())


def example_shape(spec: str, model: nn.Module) -> tuple[int, ...] | None:
    """The usual shape of one input, without the batch; None where only the user can know it."""
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("input_size"):
        return tuple(config["input_size"])
    if spec.startswith("transformers:"):
        return _usual_of_transformers(model)
    if not spec.startswith(ZOOS):
        return None
    if _takes_no_single_image(model) and not _parted(spec)[1]:
        return None
    return _USUAL_SHAPE


def example_dtype(model: nn.Module) -> torch.dtype:
    """The type of the first input: words of text models of transformers are integers."""
    words = getattr(model, "main_input_name", None) == "input_ids"
    return torch.int64 if words else torch.float32


def _usual_of_transformers(model: Any) -> tuple[int, ...] | None:
    if example_dtype(model) == torch.int64:
        return (min(_WORDS, getattr(model.config, "max_position_embeddings", _WORDS)),)
    if getattr(model, "main_input_name", None) != "pixel_values":
        return None
    size = getattr(model.config, "image_size", None) or _USUAL_SHAPE[1:]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (getattr(model.config, "num_channels", _USUAL_SHAPE[0]), *sides)


@contextmanager
def advising(spec: str, model: nn.Module) -> Iterator[None]:
    """An error of capture names the part of a detector that can be captured.

    Raises:
        CaptureError: As it was, and for a detector of torchvision with advice.
    """
    try:
        yield
    except CaptureError as error:
        if not (spec.startswith("torchvision:") and hasattr(model, "backbone")):
            raise
        raise CaptureError(
            f"{error}\nWhat a detector does with its boxes depends on the image: name the part "
            f"before that, {spec}.backbone"
        ) from error


def _takes_no_single_image(model: nn.Module) -> bool:
    return any(part in _NO_SINGLE_IMAGE for part in type(model).__module__.split("."))


def _parted(spec: str) -> tuple[str, str]:
    """A model, and the path of a module in it; names of torchvision have no dots."""
    if not spec.startswith("torchvision:"):
        return spec, ""
    whole, _, part = spec.partition(".")
    return whole, part


def _part(model: nn.Module, path: str, spec: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules()]
        raise LoadError(f"'{spec}' has no module '{path}'{close_names(path, names)}") from None
