"""What a tree says, part by part, and trees made of others."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

from embedl_deploy.errors import PatternError
from embedl_deploy.patterns.tree import (
    Chain,
    Either,
    Fixed,
    Fork,
    Hole,
    Op,
    Optional,
    Own,
    Part,
    Tree,
    Wildcard,
)

T = TypeVar("T", Op, Fork, Chain, Either)


def parts(tree: Part) -> Iterator[Part]:
    """The parts of a tree in the order of the data; an operation comes after its inputs."""
    match tree:
        case Optional():
            yield tree.op
        case Fork():
            for source in tree.inputs:
                yield from parts(source)
            yield tree.op
        case Either():
            for choice in tree.choices:
                yield from parts(choice)
        case Chain():
            for step in tree.steps:
                yield from parts(step)
        case _:
            yield tree


def operations(tree: Tree) -> Iterator[Op]:
    """Every operation of a tree, in order."""
    for part in parts(tree):
        match part:
            case Op():
                yield part
            case Wildcard():
                yield from part.ops


def names(tree: Part) -> Iterator[str]:
    """Every name that a tree binds, in order; one that alternatives share comes once."""
    match tree:
        case Op() | Wildcard() | Own() | Fixed():
            yield tree.name
        case Optional():
            yield tree.op.name
        case Fork():
            for source in tree.inputs:
                yield from names(source)
            yield tree.op.name
        case Either():
            every = [Counter(names(choice)) for choice in tree.choices]
            yield from reduce(operator.or_, every).elements()
        case Chain():
            for step in tree.steps:
                yield from names(step)


def inputs(tree: Part) -> Iterator[str]:
    """The names of what a match takes its inputs by: of holes, and of operations without a fork.

    A name may come more than once.
    """
    match tree:
        case Op() | Hole():
            yield tree.name
        case Optional():
            yield tree.op.name
        case Fork():
            for source in tree.inputs:
                yield from inputs(source)
        case Either():
            for choice in tree.choices:
                yield from inputs(choice)
        case Chain():
            always = next(i for i, step in enumerate(tree.steps) if not isinstance(step, Optional))
            for step in tree.steps[: always + 1]:
                yield from inputs(step)


def narrow(tree: T, name: str, predicate: Callable[[Any], bool]) -> T:
    """The same tree, its operation of that name under one more condition.

    Reasons given with `escaping` are those of the wider tree, and are left out.

    Raises:
        PatternError: The tree binds no operation to the name.
    """
    if all(one.name != name for one in operations(tree)):
        raise PatternError(f"narrow() is given {name!r}, which the tree does not bind")
    narrowed: T = _narrow(tree, name, predicate)
    return narrowed


def _narrow(tree: Any, name: str, predicate: Callable[[Any], bool]) -> Any:
    match tree:
        case Op():
            kept = replace(tree, escape=None)
            return kept.where(predicate) if tree.name == name else kept
        case Optional():
            return Optional(_narrow(tree.op, name, predicate))
        case Wildcard():
            return replace(tree, ops=tuple(_narrow(one, name, predicate) for one in tree.ops))
        case Fork():
            sources = tuple(_narrow(one, name, predicate) for one in tree.inputs)
            return Fork(_narrow(tree.op, name, predicate), sources)
        case Either():
            return Either(tuple(_narrow(one, name, predicate) for one in tree.choices))
        case Chain():
            return Chain(tuple(_narrow(step, name, predicate) for step in tree.steps))
    return tree
