"""Weights files, read without ever running code from them."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from embedl_deploy.errors import LoadError, MissingExtraError

_SHOWN = 3


def fill(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model, without running code from it.

    Raises:
        LoadError: It cannot be read, or does not fit the model.
        MissingExtraError: The package of its format is not installed.
    """
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


def _some(items: Sequence[str]) -> str:
    more = f", … ({len(items) - _SHOWN} more)" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
