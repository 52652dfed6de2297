"""A model is named in one word, and loads without ever running code from a weights file."""

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.cli.weights import fill
from embedl_deploy.errors import CaptureError, LoadError, MissingExtraError

__all__ = [
    "ZOOS",
    "advising",
    "example_dtype",
    "example_shape",
    "find_object",
    "load_model",
    "random_share",
]

_FORMS = "torchvision:NAME, timm:NAME, transformers:CLASS or package.module:factory"

ZOOS = ("torchvision:", "timm:", "transformers:")
"""What names models that are built with random weights."""
_USUAL_SHAPE = (3, 224, 224)
_WORDS = 128
_NO_SINGLE_IMAGE = ("detection", "optical_flow", "video")
_SHOWN = 3


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
    model = _build(whole)
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
    with _other_seed():
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


def find_object(spec: str) -> Any:
    """The object that `package.module:name` names, imported from the current directory too.

    Raises:
        LoadError: The module cannot be imported, or has no such name.
    """
    module_name, _, path = spec.partition(":")
    found: Any = _import_user_module(module_name, spec)
    for name in path.split("."):
        if not hasattr(found, name):
            hint = _close(name, dir(found))
            raise LoadError(f"'{spec}': '{module_name}' has no '{name}'{hint}")
        found = getattr(found, name)
    return found


# --- building ----------------------------------------------------------------------------------


@contextmanager
def _seeded() -> Iterator[None]:
    """What is built with random weights is the same each time; the caller's generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def _other_seed() -> Iterator[None]:
    """Another seed, whatever seed a factory sets itself; the caller's generator is kept."""
    seed = torch.manual_seed
    with torch.random.fork_rng(devices=[]):
        generator = seed(1)
        torch.manual_seed = torch.random.manual_seed = lambda seed: generator  # noqa: ARG005
        try:
            yield
        finally:
            torch.manual_seed = torch.random.manual_seed = seed


def _build(spec: str) -> nn.Module:
    source, _, name = spec.partition(":")
    if not source or not name:
        raise LoadError(f"'{spec}' names no model: write {_FORMS}")
    if source == "torchvision":
        return _from_torchvision(name)
    if source == "timm":
        return _from_timm(name)
    if source == "transformers":
        return _from_transformers(name)
    return _from_factory(spec)


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
        raise LoadError(f"'{spec}' has no module '{path}'{_close(path, names)}") from None


@_seeded()
def _from_torchvision(name: str) -> nn.Module:
    import_torchvision()
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise LoadError(f"torchvision has no model '{name}'{_close(name, known)}")
    builder = models.get_model_builder(name)
    options = {"weights": None, "weights_backbone": None}  # a backbone would be downloaded
    taken = inspect.signature(builder).parameters
    return _checked(builder(**{key: options[key] for key in options if key in taken}), name)


@_seeded()
def _from_timm(name: str) -> nn.Module:
    with suppress(MissingExtraError):  # timm needs torchvision and says so if it is not there
        import_torchvision()
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingExtraError("timm", "zoo", f"loading 'timm:{name}'") from None
    if not timm.is_model(name):
        raise LoadError(f"timm has no model '{name}'{_close(name, timm.list_models())}")
    try:
        return _checked(timm.create_model(name, pretrained=False), name)
    except RuntimeError as error:  # a tag after the dot that does not exist
        raise LoadError(f"timm cannot build '{name}': {error}") from None


@_seeded()
def _from_transformers(name: str) -> nn.Module:
    with suppress(MissingExtraError):  # models of images ask for torchvision
        import_torchvision()
    try:
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError("transformers", "zoo", f"loading 'transformers:{name}'") from None
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        known = [one for one in dir(transformers) if "For" in one or one.endswith("Model")]
        raise LoadError(
            f"transformers has no class of models '{name}' (a task is part of the name, as in "
            f"BertForSequenceClassification){_close(name, known)}"
        )
    try:
        return kind(config_for(kind))
    except Exception as error:  # constructors raise what they like
        raise LoadError(
            f"'{name}' cannot be built of its default config: {_said(error)}; write a function "
            "that builds it, and name that"
        ) from error


def config_for(kind: Any) -> Any:
    """The default config of a class of transformers, without a cache of keys and values."""
    config = kind.config_class()
    config.use_cache = False
    return config


def _from_factory(spec: str) -> nn.Module:
    factory = find_object(spec)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        kind = type(factory).__name__
        raise LoadError(
            f"'{spec}' is of type {kind}: name an nn.Module or a function that returns one"
        )
    try:
        with _seeded():
            model = factory()
    except Exception as error:
        raise LoadError(f"'{spec}' failed when called without arguments: {_said(error)}") from error
    return _checked(model, spec)


def _checked(model: object, spec: str) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    kind = type(model).__name__
    raise LoadError(f"'{spec}' returned an object of type {kind}: it must return an nn.Module")


@_seeded()
def _import_user_module(name: str, spec: str) -> ModuleType:
    if "/" in name or (name.endswith(".py") and Path(name).is_file()):
        file = Path(name)
        where = f", in the folder '{file.parent}'" if file.parent != Path() else ""
        raise LoadError(
            f"'{spec}' names a file, and a module is needed: "
            f"write {file.stem}{spec[len(name) :]}{where}"
        )
    with suppress(Exception):  # what the module imports may import torchvision
        import_torchvision()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise LoadError(f"'{spec}': importing '{name}' failed: {_said(error)}") from error
        places = f"neither in {here} nor among the installed packages"
        raise LoadError(f"'{spec}': there is no module '{error.name}', {places}") from None
    except Exception as error:
        raise LoadError(f"'{spec}': importing '{name}' failed: {_said(error)}") from error


# --- words -------------------------------------------------------------------------------------


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=_SHOWN)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
