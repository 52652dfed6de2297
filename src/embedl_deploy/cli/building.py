"""Models are built, or found, by their names."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.errors import LoadError, MissingExtraError

__all__ = ["build_model", "close_names", "find_object", "other_seed"]

_FORMS = "torchvision:NAME, timm:NAME, transformers:CLASS or package.module:factory"
_SHOWN = 3


@contextmanager
def _seeded() -> Iterator[None]:
    """What is built with random weights is the same each time; the caller's generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def other_seed() -> Iterator[None]:
    """Another seed, whatever seed a factory sets itself; the caller's generator is kept."""
    seed = torch.manual_seed
    with torch.random.fork_rng(devices=[]):
        generator = seed(1)
        torch.manual_seed = torch.random.manual_seed = lambda seed: generator  # noqa: ARG005
        try:
            yield
        finally:
            torch.manual_seed = torch.random.manual_seed = seed


def build_model(spec: str) -> nn.Module:
    """The model that `spec` names, as it was built.

    Raises:
        LoadError: There is no such model, or it cannot be built.
        MissingExtraError: Its package is not installed.
    """
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


@_seeded()
def _from_torchvision(name: str) -> nn.Module:
    import_torchvision()
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise LoadError(f"torchvision has no model '{name}'{close_names(name, known)}")
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
        raise LoadError(f"timm has no model '{name}'{close_names(name, timm.list_models())}")
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
            f"BertForSequenceClassification){close_names(name, known)}"
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


def find_object(spec: str) -> Any:
    """The object that `package.module:name` names, imported from the current directory too.

    Raises:
        LoadError: The module cannot be imported, or has no such name.
    """
    module_name, _, path = spec.partition(":")
    found: Any = _import_user_module(module_name, spec)
    for name in path.split("."):
        if not hasattr(found, name):
            hint = close_names(name, dir(found))
            raise LoadError(f"'{spec}': '{module_name}' has no '{name}'{hint}")
        found = getattr(found, name)
    return found


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


def close_names(name: str, known: Sequence[str]) -> str:
    """The most similar names as a question, or nothing."""
    close = difflib.get_close_matches(name, known, n=_SHOWN)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
