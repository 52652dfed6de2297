"""A model is named in one word, and loads without ever running code from a weights file."""

import difflib
import importlib
import importlib.util
import inspect
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.errors import LoadError, MissingExtraError

__all__ = ["example_shape", "find_object", "load_model"]

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
        _fill(model, Path(weights))
    return model.eval()


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


# --- weights -----------------------------------------------------------------------------------


def _fill(model: nn.Module, path: Path) -> None:
    state = _state_dict(_read(path), path)
    state = _without_prefix(state, model)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        report = _misfits(model, state) or str(error)
        raise LoadError(f"the weights in '{path}' do not fit the model: {report}") from None


def _read(path: Path) -> object:
    if not path.is_file():
        raise LoadError(f"there is no weights file '{path}'")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".pt", ".pth"}:
        return _read_torch(path)
    raise LoadError(f"'{path}' is no kind of weights file known: use .pt, .pth or .safetensors")


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise MissingExtraError("safetensors", "cli", f"reading '{path}'") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadError(f"'{path}' cannot be read: {error}; is the file whole?") from None


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(_needs_code(path, str(error))) from None
    except Exception as error:  # noqa: BLE001  KeyError, EOFError, …: torch did not write the file
        if "TorchScript" in str(error):
            raise LoadError(_needs_code(path, "GLOBAL TorchScript was")) from None
        reason = str(error).split(". ")[0]
        raise LoadError(
            f"'{path}' cannot be read: {type(error).__name__} {reason}; is the file whole?"
        ) from None


def _needs_code(path: Path, said: str) -> str:
    found = re.search(r"GLOBAL (\S+) was", said)
    what = found.group(1) if found else "something that is no tensor"
    return (
        f"'{path}' holds {what}, and reading that could run code from the file. Where you trust "
        "the file, load it yourself and save only tensors: "
        "torch.save(model.state_dict(), 'weights.pt')"
    )


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        kind = (
            "nothing"
            if isinstance(loaded, Mapping)
            else f"an object of type {type(loaded).__name__}"
        )
        raise LoadError(f"'{path}' holds {kind}: a state dict is needed (names to tensors)")
    others = [repr(key) for key in loaded if not isinstance(loaded[key], Tensor)]
    if others:
        raise LoadError(
            f"'{path}' is no state dict, for these are no tensors: {_some(others)}. "
            "Save model.state_dict(), alone or under the key 'state_dict' or 'model'"
        )
    return {str(key): tensor for key, tensor in loaded.items()}


def _without_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    prefix = "module."
    if not all(key.startswith(prefix) for key in state):
        return state
    if any(key.startswith(prefix) for key in model.state_dict()):
        return state
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _misfits(model: nn.Module, state: dict[str, Tensor]) -> str:
    own = model.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} where the model has {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    groups = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    return "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in groups.items() if keys)


# --- words -------------------------------------------------------------------------------------


def _some(items: Sequence[str]) -> str:
    more = f", … ({len(items) - _SHOWN} more)" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=_SHOWN)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
