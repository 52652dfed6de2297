"""Operators that pick by rank, such as top-k: near-equal scores come in another order elsewhere.

What a file picked is shown, and a model beside it picks the same. So what comes after is compared
pick by pick, and the scores before are compared by themselves.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from embedl_deploy.export.difference import Difference, OrderParity
from embedl_deploy.export.products import show

if TYPE_CHECKING:
    import onnx_ir

_PICKS, _SCORES = "/picks", "/scores"
"""End the names of the outputs that are added to see what an operator picked, and of what."""

_RANKING = {"TopK": 1, "ArgMax": 0, "ArgMin": 0}
"""Operators, with the output that holds indices."""

_ATEN = torch.ops.aten
Pair = tuple[Tensor, Tensor]

_TOP = frozenset({_ATEN.topk.default, _ATEN.sort.default, _ATEN.sort.stable})
_SINGLE = frozenset({_ATEN.argmax.default, _ATEN.argmin.default})
_ALONG = frozenset({_ATEN.max.dim, _ATEN.min.dim})
"""What ranks."""


@dataclass(frozen=True)
class _Picked:
    """What one operator of the file did with one batch."""

    name: str
    picks: Tensor
    scores: Tensor


class Orders:
    """The operators of a file that rank; their picks and scores become outputs of it.

    Args:
        model: The file; changed.

    Attributes:
        found: By name, in the order of the file.
    """

    def __init__(self, model: "onnx_ir.Model") -> None:
        self.found: dict[str, OrderParity] = {}
        self._single: dict[str, bool] = {}
        for node in list(model.graph):
            place = _RANKING.get(node.op_type)
            if node.domain or place is None or not node.name or node.inputs[0] is None:
                continue
            self.found[node.name] = OrderParity(outputs=_reached(model, node.outputs[place]))
            self._single[node.name] = node.op_type != "TopK"
            show(model, node.outputs[place], node.name + _PICKS, "INT64")
            show(model, node.inputs[0], node.name + _SCORES, "DOUBLE")

    @property
    def uncompared(self) -> set[str]:
        """Outputs that depend on picks that a model could not follow."""
        return {name for one in self.found.values() if not one.followed for name in one.outputs}

    def pop(self, outputs: dict[str, Tensor]) -> "Picks":
        """Take out what the operators did."""
        made = [
            _Picked(name, outputs.pop(name + _PICKS), outputs.pop(name + _SCORES))
            for name in self.found
        ]
        return Picks(
            [one for one in made if not self._single[one.name]],
            [one for one in made if self._single[one.name]],
            self.found,
        )


@dataclass(frozen=True)
class Picks:
    """What the operators of a file picked in one batch.

    Attributes:
        top: By sorting, in the order of the file.
        single: Of one largest or least, likewise.
        found: What is known of each operator.
    """

    top: Sequence[_Picked] = ()
    single: Sequence[_Picked] = ()
    found: Mapping[str, OrderParity] = field(default_factory=dict)

    @contextmanager
    def followed(self, counts: Counter[Any]) -> "Iterator[list[Pair]]":
        """What runs inside picks what the file did.

        Args:
            counts: How often the model ranks, from `counted`.

        Yields:
            The scores before each operator, those of the model and of the file, in the end.
        """
        pairs: list[Pair] = []
        if not self.top and not self.single:
            yield pairs
            return
        with _Following(self, counts, pairs) as mode:
            yield pairs
        for name in mode.left:
            self.found[name].followed = False


@contextmanager
def counted() -> Iterator[Counter[Any]]:
    """Counts how often what runs inside ranks."""
    with _Counting() as mode:
        yield mode.counts


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TOP | _SINGLE | _ALONG:
            self.counts[func] += 1
        return func(*args, **(kwargs or {}))


class _Following(TorchDispatchMode):
    """Gives the file's picks where the model ranks the same number of times."""

    def __init__(self, picks: Picks, counts: Counter[Any], pairs: list[Pair]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found, self.pairs = picks.found, pairs
        self.left = {one.name for one in (*picks.top, *picks.single)}
        self.queues: dict[Any, list[_Picked]] = {}
        tops, singles = list(picks.top), list(picks.single)
        if sum(counts[one] for one in _TOP) == len(tops):
            self.queues |= dict.fromkeys(_TOP, tops)
        for kinds in (_SINGLE, _SINGLE | _ALONG):  # `max` may be read for its values alone
            if sum(counts[one] for one in kinds) == len(singles):
                self.queues |= dict.fromkeys(kinds, singles)
                return

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        queue = self.queues.get(func)
        own = made[1] if isinstance(made, tuple) else made
        if not queue or queue[0].picks.numel() != own.numel():
            return made
        picked, scores = queue.pop(0), args[0]
        if picked.scores.numel() != scores.numel():
            return made
        picks = picked.picks.to(own).view(own.shape)
        chosen = self._follow(picked, scores, own, picks, _dimension(func, args, kwargs))
        return (chosen.view(own.shape), picks) if isinstance(made, tuple) else picks

    def _follow(
        self, picked: _Picked, scores: Tensor, own: Tensor, picks: Tensor, dim: int | None
    ) -> Tensor:
        """The model's scores at the file's picks, and a note of how these differ from its own."""
        self.left.discard(picked.name)
        entry, theirs = self.found[picked.name], picked.scores.view(scores.shape).to(scores)
        self.pairs.append((scores.cpu(), theirs.cpu()))
        entry.picks += picks.numel()
        entry.same += int((picks == own).sum())
        entry.add(scores, theirs)
        chosen = _chosen(scores, picks, dim)
        # ranked values move by no more than the scores do, and so do those at the file's picks
        within = 2 * Difference.of(scores, theirs).largest_difference
        best = _chosen(scores, own, dim)
        entry.sound &= Difference.of(best, chosen).largest_difference <= within
        return chosen


def _dimension(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    place = 2 if func is _ATEN.topk.default else 1
    given = args[place] if len(args) > place else kwargs.get("dim")
    if given is not None:
        return int(given)
    return None if func in _SINGLE else -1


def _chosen(scores: Tensor, picks: Tensor, dim: int | None) -> Tensor:
    """The scores at picks."""
    if dim is None:
        return scores.reshape(-1)[picks.reshape(-1)]
    whole = picks if picks.dim() == scores.dim() else picks.unsqueeze(dim)
    return scores.gather(dim, whole)


def _reached(model: "onnx_ir.Model", value: "onnx_ir.Value") -> tuple[str, ...]:
    """Names of the outputs of the file that follow from a value."""
    reached, pending = {id(value)}, [value]
    while pending:
        for use in pending.pop().uses():
            for one in use.node.outputs:
                if id(one) not in reached:
                    reached.add(id(one))
                    pending.append(one)
    return tuple(str(one.name) for one in model.graph.outputs if id(one) in reached)
