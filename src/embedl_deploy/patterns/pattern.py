"""What a pattern is."""

import enum
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from embedl_deploy.errors import PatternError
from embedl_deploy.modules.points import QDQPoint
from embedl_deploy.patterns.parts import names, parts
from embedl_deploy.patterns.tree import Again, Chain, Either, Fork, Op, Tree


class Stage(enum.Enum):
    """When a pattern is applied."""

    CONVERSION = "conversion"
    FUSION = "fusion"


class Pattern:
    """What to look for, where Q/DQ goes, and what to build.

    A subclass sets `tree` and writes `build`, whose parameters are names that the tree binds.
    It may write `refuse` in the same way, which gives the reason not to match, and `keep_float`,
    which gives the reason to match and quantize nothing. All may also ask for `site`, which tells
    where the match is (`embedl_deploy.patterns.Site`). What is wrong with a pattern is said when
    its class is defined.

    Attributes:
        tree: The operations to look for.
        qdq_points: Where the built module is quantized.
        stage: Conversions run before fusions.
    """

    tree: ClassVar[Tree]
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = ()
    stage: ClassVar[Stage] = Stage.FUSION
    build: ClassVar[Callable[..., nn.Module]]
    refuse: ClassVar[Callable[..., str | None]] = lambda self: None  # noqa: ARG005
    keep_float: ClassVar[Callable[..., str | None]] = lambda self: None  # noqa: ARG005

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "tree"):
            return
        _check_tree(cls)
        _check_points(cls)
        for method in ("build", "refuse", "keep_float"):
            _check_arguments(cls, method)

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"


class ConversionPattern(Pattern):
    """A pattern whose built module is opened up in the graph instead of staying one node.

    The module's `forward` is ordinary PyTorch code. It takes what the first operation of the
    match was called with, then the tree's holes. Conversions are applied until none fits.
    """

    stage = Stage.CONVERSION


def _check_tree(cls: type[Pattern]) -> None:
    if not isinstance(cls.tree, Op | Fork | Chain | Either):
        raise PatternError(
            f"{cls.__name__}.tree is a {type(cls.tree).__name__}; write it with chain(), fork() "
            "and op() of embedl_deploy.patterns"
        )
    twice = [name for name, count in Counter(names(cls.tree)).items() if count > 1]
    if twice:
        raise PatternError(
            f"{cls.__name__}.tree binds {twice[0]!r} twice; give one of them another name: "
            f'OP.named("…")'
        )
    before: set[str] = set()
    for part in parts(cls.tree):
        if isinstance(part, Again) and part.name not in before:
            raise PatternError(
                f"{cls.__name__}.tree has again({part.name!r}) where nothing has that name "
                "before it; write the operation itself first"
            )
        before.add(getattr(part, "name", ""))


def _check_points(cls: type[Pattern]) -> None:
    wrong = [point for point in cls.qdq_points if not isinstance(point, QDQPoint)]
    if wrong:
        known = ", ".join(f"QDQPoint.{point.name}" for point in QDQPoint)
        raise PatternError(
            f"{cls.__name__}.qdq_points holds {wrong[0]!r}, which is no Q/DQ point; use {known}"
        )
    if cls.qdq_points and cls.stage is Stage.CONVERSION:
        raise PatternError(
            f"{cls.__name__} is a conversion and can have no qdq_points: what it builds is "
            "opened up; declare them on the fusion that matches afterwards"
        )


def _check_arguments(cls: type[Pattern], method: str) -> None:
    function: Any = getattr(cls, method, None)
    if function is None:
        raise PatternError(f"{cls.__name__} has a tree and no {method}(); write one")
    bound = tuple(names(cls.tree))
    for name, parameter in tuple(inspect.signature(function).parameters.items())[1:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if name not in {*bound, "site"} and parameter.default is inspect.Parameter.empty:
            raise PatternError(
                f"{cls.__name__}.{method}() takes {name!r}, which its tree does not bind; "
                f"it binds {', '.join(bound)}"
            )
