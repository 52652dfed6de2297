"""Parts of a configuration as plain data for JSON: names and numbers, never code."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from embedl_deploy import modules
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observing.clipping import (
    EntropyObserver,
    MSEObserver,
    PercentileObserver,
)
from embedl_deploy.quantize.observing.observers import (
    FixedObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
)
from embedl_deploy.quantize.skip import Selector, Skip

_OBSERVERS: dict[str, type[Observer]] = {
    kind.__name__: kind
    for kind in (
        EntropyObserver,
        FixedObserver,
        MinMaxObserver,
        MovingAverageObserver,
        MSEObserver,
        PercentileObserver,
    )
}
_PACKAGES = {"torch.nn": nn, "embedl_deploy.modules": modules}


def observer_to_dict(make: Callable[[], Observer]) -> dict[str, Any]:
    """An observer's class by name, with its arguments.

    Raises:
        QuantizationError: It is none of the library's, or `make` is a function.
    """
    kind, args, kwargs = make, (), {}
    if isinstance(make, partial):
        kind, args, kwargs = make.func, make.args, make.keywords
    if kind not in _OBSERVERS.values():
        name = getattr(kind, "__name__", type(kind).__name__)
        raise QuantizationError(
            f"the observer {name} is not stored, since it is none of {', '.join(_OBSERVERS)}, by "
            "itself or in a partial; store the config without it, and set it again in code"
        )
    given = inspect.signature(kind).bind(*args, **kwargs).arguments
    return {"name": getattr(kind, "__name__", ""), **given}


def observer_from_dict(stored: Any) -> Callable[[], Observer]:
    """What makes the observer; min-max where no name is given.

    Raises:
        QuantizationError: There is no such observer, or it does not take these arguments.
    """
    if not isinstance(stored, Mapping):
        raise QuantizationError(
            f'an observer is stored as {{"name": NAME}} with its arguments, not as {stored!r}'
        )
    arguments = {"name": MinMaxObserver.__name__, **stored}
    name = arguments.pop("name")
    if not isinstance(name, str) or name not in _OBSERVERS:
        raise QuantizationError(f"there is no observer {name!r}; one of {', '.join(_OBSERVERS)}")
    kind = _OBSERVERS[name]
    if not arguments:
        return kind
    make = partial(kind, **arguments)
    try:
        make()
    except TypeError as error:
        raise QuantizationError(f"{name} does not take {arguments}: {error}") from None
    return make


def skip_to_dict(skip: Skip) -> dict[str, Any]:
    """A choice of what to skip.

    Raises:
        QuantizationError: It selects by a function or a module.
    """
    flags = {"activations": skip.activations, "weights": skip.weights}
    match skip.which:
        case str() as pattern:
            return {"which": pattern, **flags}
        case type() as kind:
            return {"which": {"class": _name_of(kind)}, **flags}
    raise QuantizationError(
        f"skip by {skip} is not stored: a function or a module has no name that finds it again; "
        "skip by the paths, as placement(model) lists them"
    )


def skip_from_dict(stored: Mapping[str, Any]) -> Skip:
    """The choice again.

    Raises:
        QuantizationError: It names a class that is none of the known packages.
    """
    known(stored, ("which", "activations", "weights"), "a skip")
    which = stored.get("which")
    selector = which if isinstance(which, str) else _class_of(which)
    return Skip(selector, stored.get("activations", True), stored.get("weights", True))


def known(stored: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    """Raise where what was stored has other names than these.

    Raises:
        QuantizationError: It has, as one of a newer version would.
    """
    if not isinstance(stored, Mapping):
        raise QuantizationError(f"{what} is stored as a dict, not as a {type(stored).__name__}")
    if unknown := sorted(stored.keys() - {*names}):
        raise QuantizationError(
            f"{what} has no {', '.join(map(repr, unknown))}; it has {', '.join(names)}"
        )


def _name_of(kind: type) -> str:
    for package, module in _PACKAGES.items():
        if getattr(module, kind.__name__, None) is kind:
            return f"{package}.{kind.__name__}"
    raise QuantizationError(
        f"skip by the class {kind.__name__} is not stored, since it is none of "
        f"{' or '.join(_PACKAGES)}; skip by the paths, as placement(model) lists them"
    )


def _class_of(which: Any) -> Selector:
    name = which.get("class") if isinstance(which, Mapping) else None
    package, _, own = str(name).rpartition(".")
    kind = getattr(_PACKAGES.get(package), own, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise QuantizationError(
            f"a skip selects by {which!r}; known are a path pattern and "
            f'{{"class": NAME}} with a class of {" or ".join(_PACKAGES)}'
        )
    return kind
