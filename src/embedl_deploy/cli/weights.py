"""Weights files, read without ever running code from them."""

import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from embedl_deploy.errors import LoadError, MissingExtraError

_logger = logging.getLogger(__name__)

_KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema")
"""Under which training programs keep a state dict, the first that is there."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before all names: data parallelism, torch.compile, Lightning."""

_SHOWN = 3


def fill(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model, without running code from it.

    Raises:
        LoadError: It cannot be read, or does not fit the model.
        MissingExtraError: The package of its format is not installed.
    """
    state, keys = _state_dict(_read(path), path)
    state, prefix = _without_prefix(state, model)
    if keys or prefix:
        where = f" are under '{'.'.join(keys)}'" if keys else ""
        names = f" {'and ' if keys else ''}have '{prefix}' before their names" if prefix else ""
        _logger.warning("the weights in '%s'%s%s, which is taken off", path, where, names)
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
    if path.suffix in {".pt", ".pth", ".ckpt"}:
        return _read_torch(path)
    raise LoadError(
        f"'{path}' is no kind of weights file known: use .pt, .pth, .ckpt or .safetensors"
    )


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


def _state_dict(loaded: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Names to tensors, and the keys under which they were found."""
    keys: list[str] = []
    while isinstance(loaded, Mapping):
        key = next((one for one in _KEYS if isinstance(loaded.get(one), Mapping)), None)
        if key is None:
            break
        loaded = loaded[key]
        keys.append(key)
    if not isinstance(loaded, Mapping) or not loaded:
        kind = type(loaded).__name__
        what = "nothing" if isinstance(loaded, Mapping) else f"an object of type {kind}"
        raise LoadError(f"'{path}' holds {what}: a state dict is needed (names to tensors)")
    others = [repr(key) for key in loaded if not isinstance(loaded[key], Tensor)]
    if others:
        raise LoadError(
            f"'{path}' is no state dict, for these are no tensors: {_some(others)}. "
            f"Save model.state_dict(), alone or under one of the keys {', '.join(_KEYS)}"
        )
    return {str(key): tensor for key, tensor in loaded.items()}, keys


def _without_prefix(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The names as the model has them, and what stood before all of them."""
    own, taken = model.state_dict(), ""
    state = {name: one for name, one in state.items() if name != "n_averaged"}  # of AveragedModel
    while prefix := next((one for one in _PREFIXES if _before_all(one, state, own)), ""):
        state = {name.removeprefix(prefix): one for name, one in state.items()}
        taken += prefix
    return state, taken


def _before_all(prefix: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    others = not any(name.startswith(prefix) for name in own)
    return others and bool(state) and all(name.startswith(prefix) for name in state)


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


def _some(items: Sequence[str]) -> str:
    more = f", … ({len(items) - _SHOWN} more)" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
