"""Channels that have one factor in common."""

from collections.abc import Iterator

import torch
from torch import Tensor

ZERO = 0
"""The label of values that are zero: any factor fits."""

FIXED = 1
"""The label of values that no factor may change."""


class Classes:
    """Disjoint sets of channels, by label; of one set some may have the inverse of its factor.

    Labels are numbers in tensors of `float64`, in which every operation that copies values works.
    """

    def __init__(self) -> None:
        self._parents = [ZERO, FIXED]
        self._signs = [1, 1]
        self._reasons = {FIXED: "a part of it takes no factor"}

    def __len__(self) -> int:
        """How many labels there are."""
        return len(self._parents)

    def new(self, count: int) -> Tensor:
        """Labels of channels that have nothing to do with others so far."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        self._signs.extend([1] * count)
        return torch.arange(first, first + count, dtype=torch.float64)

    def join(self, labels: Tensor, others: Tensor, sign: int = 1) -> None:
        """Give pairs of channels one factor, or with `sign` -1 inverse factors.

        The tensors broadcast against each other.
        """
        pairs = torch.stack(torch.broadcast_tensors(labels, others)).flatten(1)
        for one, other in pairs.unique(dim=1).T.long().tolist():
            if ZERO not in (one, other):
                self._join(one, other, sign)

    def _join(self, one: int, other: int, sign: int) -> None:
        (root, of_one), (gone, of_other) = self._find(one), self._find(other)
        sign *= of_one * of_other
        if root == gone:
            if sign < 0:
                self._reasons.setdefault(root, "a channel is multiplied by itself")
            return
        self._parents[gone], self._signs[gone] = root, sign
        reason = self._reasons.pop(gone, None)
        if reason is not None:
            self._reasons.setdefault(root, reason)

    def _find(self, label: int) -> tuple[int, int]:
        path = []
        while self._parents[label] != label:
            path.append(label)
            label = self._parents[label]
        sign = 1
        for one in reversed(path):
            sign *= self._signs[one]
            self._parents[one], self._signs[one] = label, sign
        return label, sign

    def pin(self, labels: Tensor, reason: str) -> None:
        """Give channels the factor 1; the first reason counts."""
        for label in labels.unique().long().tolist():
            if label != ZERO:
                self._reasons.setdefault(self._find(label)[0], reason)

    def reason(self, labels: Tensor) -> str:
        """Why one of these channels has the factor 1; empty where none is held to it."""
        return next(self._reasons_of(labels), "")

    def _reasons_of(self, labels: Tensor) -> Iterator[str]:
        for label in labels.unique().long().tolist():
            root = self._find(label)[0]
            if root in self._reasons:
                yield self._reasons[root]

    def roots(self) -> tuple[Tensor, Tensor]:
        """The representative of each label's set, and 1, or -1 for the inverse."""
        found = [self._find(label) for label in range(len(self._parents))]
        roots, signs = zip(*found, strict=True)
        return torch.tensor(roots), torch.tensor(signs)

    def pinned(self) -> Tensor:
        """Whether each label has the factor 1; those of zeros do, since nothing needs another."""
        roots, _ = self.roots()
        held = torch.zeros(len(roots), dtype=torch.bool)
        held[[ZERO, *self._reasons]] = True
        return held[roots]
