"""A rule of fusion: what it claims, and where it holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Claim, Found


@dataclass(frozen=True)
class Fusion(Claim):
    """One rule.

    Attributes:
        find: Finds the places among operators that no earlier rule took.
    """

    find: Callable[[Plan], Iterator[Found]]
