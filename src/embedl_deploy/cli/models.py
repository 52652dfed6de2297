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
from embedl_deploy.errors import LoadError, MissingExtraError

__all__ = ["example_shape", "find_object", "load_model", "random_share"]

_FORMS = "torchvision:NAME, timm:NAME or package.module:factory"
_USUAL_SHAPE = (3, 224, 224)
_NO_SINGLE_IMAGE = ("detection", "optical_flow", "video")
_SHOWN = 3


def load_model(spec: str, *, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """The model that `spec` names is returned in eval mode, with the weights of a file if given.

    Args:
        spec: `torchvision:NAME` and `timm:NAME` build with random weights, the same each time;
            nothing is downloaded.
            `package.module:factory` is imported, from the current directory too; the factory is
            called without arguments, or is a model already.
        weights: A state dict in a `.pt`, `.pth` or `.safetensors` file, bare or under the key
            `state_dict` or `model`; a `module.` before all its names is taken off.

    Raises:
        LoadError: There is no such model, it cannot be built, or the weights do not fit it.
        MissingExtraError: The package of the model or of the file format is not installed.
    """
    model = _build(spec)
    if weights is not None:
        fill(model, Path(weights))
    return model.eval()


def random_share(spec: str, model: nn.Module) -> float | None:
    """The share of a model's parameters that are random; `None` where that cannot be known.

    What another seed changes is random, so a factory is called again; a model that stands in a
    module already was made with whatever seed there was.

    Args:
        spec: As `load_model` takes it.
        model: What it gave, without a file of weights.
    """
    if spec.startswith(("torchvision:", "timm:")):
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
    if not spec.startswith(("torchvision:", "timm:")):
        return None
    if any(part in _NO_SINGLE_IMAGE for part in type(model).__module__.split(".")):
        return None
    return _USUAL_SHAPE


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
    return _from_factory(spec)


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
