"""A tree with all that is optional in it written out: one variant per choice, longest first."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import product

from embedl_deploy.patterns.tree import (
    Again,
    Chain,
    Either,
    Fixed,
    Fork,
    Hole,
    Op,
    Optional,
    Own,
    Source,
    Tree,
    Wildcard,
)


@dataclass(frozen=True)
class Step:
    """An operation and where its inputs come from; no sources at the head of a chain."""

    op: Op
    sources: "tuple[Link, ...]" = ()


@dataclass(frozen=True)
class Run:
    """Any run of listed operations after `source`."""

    wildcard: Wildcard
    source: Step


Link = Step | Run | Hole | Own | Fixed | Again


@dataclass(frozen=True)
class Variant:
    """One way to read a tree.

    Attributes:
        root: The last operation.
        length: Number of operations.
        spine: The root and what comes before it, each the first input of the next; up to what may
            be another input. Variants with equal ones have the same object.
    """

    root: Step
    length: int
    spine: tuple[Op, ...] = ()


@lru_cache(maxsize=1024)
def variants(tree: Tree) -> tuple[Variant, ...]:
    """All variants of a tree, longest first."""
    roots = [root for root in _expand(tree) if isinstance(root, Step)]
    spines: dict[tuple[Op, ...], tuple[Op, ...]] = {}
    found = []
    for root in roots:
        spine = _spine(root)
        found.append(Variant(root, _length(root), spines.setdefault(spine, spine)))
    return tuple(sorted(found, key=lambda variant: -variant.length))


def _length(source: Link) -> int:
    match source:
        case Step():
            return 1 + sum(map(_length, source.sources))
        case Run():
            return _length(source.source)
    return 0


def _spine(step: Link) -> tuple[Op, ...]:
    if not isinstance(step, Step):
        return ()
    straight = step.sources and not step.op.commutative and not step.op.operands
    return (step.op, *(_spine(step.sources[0]) if straight else ()))


def _expand(tree: Source) -> Iterator[Link]:
    match tree:
        case Hole() | Own() | Fixed() | Again():
            yield tree
        case Op():
            yield Step(tree)
        case Fork():
            for sources in product(*(tuple(_expand(source)) for source in tree.inputs)):
                yield Step(tree.op, sources)
        case Either():
            for choice in tree.choices:
                yield from _expand(choice)
        case Chain():
            yield from _expand_chain(tree)


def _expand_chain(tree: Chain) -> Iterator[Link]:
    choices = [(step.op, None) if isinstance(step, Optional) else (step,) for step in tree.steps]
    for choice in product(*choices):
        first, *rest = [step for step in choice if step is not None]
        assert isinstance(first, Op | Fork | Either)  # noqa: S101 - chain() excludes the others
        for head in _expand(first):
            yield reduce(_following, rest, head)


def _following(current: Link, step: object) -> Step | Run:
    if isinstance(step, Wildcard) and isinstance(current, Step):
        return Run(step, current)
    assert isinstance(step, Op)  # noqa: S101 - chain() excludes the others
    return Step(step, (current,))
