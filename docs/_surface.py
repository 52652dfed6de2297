"""The public surface as text: what each package exports, with signatures."""

import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from embedl_deploy.patterns import ACTIVATIONS, NOISE, Op, Pattern
from embedl_deploy.patterns.tree import (
    Again,
    Chain,
    Either,
    Fixed,
    Fork,
    Hole,
    Optional,
    Own,
    Part,
    Wildcard,
)
from embedl_deploy.quantize import QuantConfig

PACKAGES = (
    "embedl_deploy",
    "embedl_deploy.tensorrt",
    "embedl_deploy.patterns",
    "embedl_deploy.quantize",
    "embedl_deploy.export",
    "embedl_deploy.tuning",
    "embedl_deploy.report",
    "embedl_deploy.modules",
    "embedl_deploy.errors",
)


def exports(package: str) -> dict[str, Any]:
    """What a package exports by name, in the order of its `__all__`."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


def first_line(one: Any) -> str:
    """The first line of a docstring of its own; empty where there is none."""
    written = one.__doc__ if isinstance(one, type) else inspect.getdoc(one)
    return (written or "").strip().partition("\n")[0]


def describe(name: str, one: Any) -> str:
    """A name with its signature, its kind or its value, in one line."""
    if isinstance(one, type):
        return f"class {name}{_constructor(one)}"
    if inspect.isfunction(one):
        return f"{name}{signature(one)}"
    if isinstance(one, Op):
        return f"{name}: Op = {tree_text(one)}"
    if isinstance(one, tuple):
        return f"{name} = ({' '.join(f'{part.__name__},' for part in one).removesuffix(',')})"
    if isinstance(one, QuantConfig):
        return f"{name}: QuantConfig"
    return f"{name} = {_annotation(one)}"


def _constructor(kind: type) -> str:
    bases = [one.__name__ for one in kind.__bases__ if one is not object]
    bases = [name for name in bases if not name.startswith("_")]
    inherited = f" < {', '.join(bases)}" if bases else ""
    if issubclass(kind, enum.Enum | Pattern) or getattr(kind, "_is_protocol", False):
        return inherited
    if kind.__init__ is nn.Module.__init__:
        return f"(){inherited}"  # versions of torch write the signature differently
    own = "__init__" in vars(kind)
    if issubclass(kind, Exception) and not own:
        return inherited
    if any(name.startswith("_") for name in inspect.signature(kind).parameters):
        return inherited  # the library alone makes these
    return f"{signature(kind, returns=False)}{inherited}"


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public members that a class itself defines, each as text and with its value."""
    seen = vars(kind)
    if issubclass(kind, enum.Enum):
        yield from ((f"{one.name} = {one.value!r}", None) for one in kind)
        return
    for name, annotation in inspect.get_annotations(kind).items():
        if not name.startswith("_"):
            yield f"{name}: {_annotation(annotation)}", None
    for name, one in seen.items():
        if name == "extra_repr" or (name.startswith("_") and name != "__call__"):
            continue
        if isinstance(one, property):
            yield f"{name}: {_annotation(inspect.signature(_getter(one)).return_annotation)}", one
        elif isinstance(one, classmethod | staticmethod):
            yield f"{name}{signature(getattr(kind, name))}", one.__func__
        elif inspect.isfunction(one) and one.__name__ == name:
            yield f"{name}{_without_self(one)}", one


def _getter(one: property) -> Callable[..., Any]:
    assert one.fget is not None  # noqa: S101 - the library has no property without one
    return one.fget


def _without_self(function: Callable[..., Any]) -> str:
    return signature(function).replace("(self, ", "(", 1).replace("(self)", "()", 1)


def signature(function: Callable[..., Any], *, returns: bool = True) -> str:
    """A signature without the paths of its types; a default that has a name stands under it."""
    found = inspect.signature(function)
    parameters = [
        one.replace(
            annotation=one.annotation
            if one.annotation is one.empty
            else _Text(_annotation(one.annotation)),
            default=one.default if one.default is one.empty else _Text(_default(one.default)),
        )
        for one in found.parameters.values()
    ]
    given = found.return_annotation
    result = given if given is found.empty else _Text(_annotation(given))
    if not returns:
        result = found.empty
    return str(found.replace(parameters=parameters, return_annotation=result))


class _Text(str):
    """Text that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("'Op'", "Op")


def _default(value: Any) -> str:
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    return "…" if repr(value) == "<factory>" else repr(value)


def tree_text(tree: Part) -> str:
    """A pattern's tree in one line, from the input to the output."""
    match tree:
        case Op():
            return _kinds(tree) + (" where …" if tree.predicate else "")
        case Hole() | Own() | Fixed() | Again():
            return tree.name
        case Either():
            return f"({' or '.join(map(tree_text, tree.choices))})"
        case Optional():
            return f"[{tree_text(tree.op)}]"
        case Wildcard():
            return f"({' | '.join(map(tree_text, tree.ops))})*"
        case Fork():
            return f"{tree_text(tree.op)}({', '.join(map(tree_text, tree.inputs))})"
        case Chain():
            return " → ".join(map(tree_text, tree.steps))


def _kinds(operation: Op) -> str:
    if operation.kinds == ACTIVATIONS:
        return "Activation"
    if operation.kinds == NOISE.kinds:
        return "Noise"
    listed = " | ".join(_kind(kind) for kind in operation.kinds)
    return re.sub(r"(\w+)1d \| \1(?=2d)2d \| \1(?=3d)3d", r"\1Nd", listed)


def _kind(kind: Any) -> str:
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
