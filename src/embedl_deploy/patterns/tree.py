"""The words that a pattern's tree is written in.

    chain(CONV2D, optional(BATCH_NORM2D), ACTIVATION)

reads from the input to the output: an activation, of an optional batch norm, of a convolution.
Every word for an operation binds it to a name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from embedl_deploy.errors import PatternError


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its sizes, `None` for each that is not known, and its dtype.

    A number that the model computes has shape `()`.
    """

    shape: tuple[int | None, ...] | None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Call:
    """A matched call of a function, or of a tensor's method by its name.

    The model's own tensors are given as they are, others as `Value`.
    """

    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Op:
    """One operation: a module of one of the given types, or a call of one of the functions.

    Attributes:
        name: What the operation is bound to: a module, or a `Call`.
        kinds: Module classes (matched exactly) and functions; a text names them without
            importing their package: the name of a class, the qualified name of a function,
            and `"Tensor.to"` for a method that has no function.
        predicate: Further condition on the module or `Call`.
        commutative: Whether the first two inputs may be swapped.
        operands: Which arguments the inputs of a fork are; by default the first ones.
        escape: The reason to refuse with where the operation fits no match, or its value is
            used outside the match; a general one by default.
    """

    name: str
    kinds: tuple[type[nn.Module] | Callable[..., Any] | str, ...]
    predicate: Callable[[Any], bool] | None = None
    commutative: bool = False
    operands: tuple[int, ...] | None = None
    escape: str | None = None

    def where(self, predicate: Callable[[Any], bool]) -> "Op":
        """The same operation under one more condition on the module or `Call`."""
        first = self.predicate
        if first is None:
            return replace(self, predicate=predicate)
        return replace(self, predicate=lambda bound: first(bound) and predicate(bound))

    def taking(self, *values: Any) -> "Op":
        """The same call with `values` as its last arguments; numbers are equal up to 1e-6."""
        return self.where(lambda call: _alike(tuple(call.args[-len(values) :]), values))

    def named(self, name: str) -> "Op":
        """The same operation under another name."""
        return replace(self, name=name)

    def escaping(self, reason: str) -> "Op":
        """The same operation with a reason of its own where its value is used outside."""
        return replace(self, escape=reason)

    def accepts(self, bound: object) -> bool:
        """Whether the condition holds for a module or `Call` of the right kind."""
        return self.predicate is None or self.predicate(bound)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(type(one) is type(other) and one == other)


@dataclass(frozen=True)
class Hole:
    """An input from outside the match, by name; the same name is the same value."""

    name: str


@dataclass(frozen=True)
class Own:
    """A parameter of the model, bound as itself."""

    name: str


@dataclass(frozen=True)
class Fixed:
    """A value that follows from tensors of the model that do not train, bound as a tensor."""

    name: str


@dataclass(frozen=True)
class Again:
    """The value of an earlier operation of the tree."""

    name: str


@dataclass(frozen=True)
class Optional:
    """An operation that may be missing; its name is then bound to `None`."""

    op: Op


@dataclass(frozen=True)
class Wildcard:
    """Any run, also an empty one, of the listed operations, bound as a tuple."""

    name: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Fork:
    """An operation with its inputs, each a tree or a value; two in any order if commutative."""

    op: Op
    inputs: "tuple[Source, ...]"


@dataclass(frozen=True)
class Either:
    """Several trees or values of which one is there."""

    choices: "tuple[Source, ...]"


@dataclass(frozen=True)
class Chain:
    """Operations of which each is the first input of the next."""

    steps: "tuple[Op | Optional | Wildcard | Fork | Either, ...]"


Tree = Op | Fork | Chain | Either
Source = Tree | Hole | Own | Fixed | Again
Part = Source | Optional | Wildcard


def op(name: str, *kinds: type[nn.Module] | Callable[..., Any] | str, **options: Any) -> Op:
    """An operation of one of `kinds`, bound to `name`; see `Op` for the options.

    Raises:
        PatternError: There is no kind, or one is neither a module class nor a function.
    """
    if not kinds:
        raise PatternError(f"op({name!r}) names no module class and no function")
    for kind in kinds:
        if not callable(kind) and not isinstance(kind, str):
            raise PatternError(f"op({name!r}) takes module classes and functions, not {kind!r}")
    return Op(name, kinds, **options)


def hole(name: str) -> Hole:
    """An input from outside the match, passed to the built module in the tree's order.

    Holes of the same name are one input, and have to be the same value. One that is only in
    an alternative that is not there is passed as `None`.
    """
    return Hole(name)


def own(name: str) -> Own:
    """A parameter of the model that an operation takes: bound as itself, and not passed on."""
    return Own(name)


def fixed(name: str) -> Fixed:
    """A value that follows from tensors of the model that do not train: bound, and not passed on.

    It is bound as a parameter without gradient, computed once.
    """
    return Fixed(name)


def again(operation: Op) -> Again:
    """The value of an earlier operation of the tree, which is used twice."""
    return Again(operation.name)


def either(*choices: Source) -> Either:
    """Several trees or values of which one is there; longer ones are tried first.

    Raises:
        PatternError: It is given something else.
    """
    _check("either()", choices, _SOURCE)
    return Either(choices)


def optional(operation: Op) -> Optional:
    """An operation that may be missing.

    Raises:
        PatternError: It is no operation.
    """
    _check("optional()", (operation,), Op)
    return Optional(operation)


def wildcard(name: str, *ops: Op) -> Wildcard:
    """Any run of the listed operations.

    Raises:
        PatternError: The list is empty or holds something else.
    """
    _check(f"wildcard({name!r})", ops, Op)
    return Wildcard(name, ops)


def fork(operation: Op, *inputs: Source) -> Fork:
    """An operation with its inputs, its first arguments; what else it takes is no tensor.

    Raises:
        PatternError: It has no inputs, or one that is neither a tree nor a value.
    """
    _check("fork()", (operation,), Op)
    _check("fork()", inputs, _SOURCE)
    return Fork(operation, inputs)


def chain(*steps: Op | Optional | Wildcard | Fork | Either) -> Chain:
    """A sequence of operations.

    Raises:
        PatternError: It is empty, a fork or an alternative is not first, or a
            wildcard is not between two operations.
    """
    _check("chain()", steps, Op | Optional | Wildcard | Fork | Either)
    if all(isinstance(step, Optional | Wildcard) for step in steps):
        raise PatternError("a chain needs at least one operation that is always there")
    if any(isinstance(step, Fork | Either) for step in steps[1:]):
        raise PatternError("a fork has its inputs within itself; it can only begin a chain")
    for index, step in enumerate(steps):
        if isinstance(step, Wildcard):
            _check_between(steps[:index], steps[index + 1 :])
    return Chain(steps)


_SOURCE = Op | Fork | Chain | Either | Hole | Own | Fixed | Again


def _check(word: str, given: tuple[object, ...], kinds: Any) -> None:
    wrong = [one for one in given if not isinstance(one, kinds)]
    if not given or wrong:
        what = repr(wrong[0]) if wrong else "nothing"
        known = " or ".join(kind.__name__ for kind in getattr(kinds, "__args__", (kinds,)))
        raise PatternError(f"{word} is given {what}; it takes {known}")


def _check_between(before: tuple[object, ...], after: tuple[object, ...]) -> None:
    """Before and after a wildcard there is an operation that is always there."""
    always = [step for step in before if not isinstance(step, Optional)]
    if (
        always
        and not isinstance(always[-1], Wildcard)
        and any(isinstance(one, Op) for one in after)
    ):
        return
    raise PatternError(
        "a wildcard is between two operations that are always there, not at the end of a chain "
        "nor beside another wildcard"
    )
