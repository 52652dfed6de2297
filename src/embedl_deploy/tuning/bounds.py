"""What the best candidate has to keep to."""

from collections.abc import Iterable
from dataclasses import dataclass

from embedl_deploy.errors import QuantizationError
from embedl_deploy.tuning.accuracy import Accuracy
from embedl_deploy.tuning.candidates import Candidate


@dataclass(frozen=True)
class Bound:
    """A bound on accuracy, where the cheapest is sought, or on cost, where the most accurate is.

    Attributes:
        min_sqnr: Decibels at least.
        max_drop: Percentage points of the user's score that may be lost; without a score, percent
            of the samples whose class may change.
        max_cost: In the unit of the costs.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.min_sqnr, self.max_drop, self.max_cost)) > 1:
            raise QuantizationError("give one of min_sqnr, max_drop and max_cost")

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.min_sqnr, self.max_drop, self.max_cost))

    def __str__(self) -> str:
        if self.min_sqnr is not None:
            return f"at least {self.min_sqnr:g} dB"
        if self.max_drop is not None:
            return f"a drop of at most {self.max_drop:g} %"
        return "no bound" if self.max_cost is None else f"a cost of at most {self.max_cost:g}"

    def holds(self, one: Candidate, score: float | None) -> bool:
        """Whether a candidate keeps to it.

        Args:
            one: The candidate.
            score: Of the model in floating point.

        Raises:
            QuantizationError: A drop cannot be told.
        """
        if self.max_cost is not None:
            return one.cost.value <= self.max_cost
        if self.max_drop is not None:
            return _drop(one.accuracy, score) <= self.max_drop
        return self.min_sqnr is None or one.accuracy.sqnr_db >= self.min_sqnr

    def best(self, candidates: Iterable[Candidate], score: float | None) -> Candidate | None:
        """The best of those that keep to it; None where none does."""
        fit = [one for one in candidates if self.holds(one, score)]
        if self.max_cost is not None:
            return max(fit, key=lambda one: one.accuracy.sqnr_db, default=None)
        return min(fit, key=lambda one: (one.cost.value, -one.accuracy.sqnr_db), default=None)

    def needed_db(self, candidates: Iterable[Candidate], score: float | None) -> float:
        """The signal to noise that a candidate probably needs: above all that failed."""
        if self.min_sqnr is not None:
            return self.min_sqnr
        failed = [one.accuracy.sqnr_db for one in candidates if not self.holds(one, score)]
        return max(failed, default=float("-inf"))


def _drop(accuracy: Accuracy, score: float | None) -> float:
    if accuracy.score is not None and score is not None:
        return score - accuracy.score
    if accuracy.agreement is not None:
        return round(100 - 100 * accuracy.agreement, 9)
    raise QuantizationError(
        "the output is no class scores, so that no drop can be told: give evaluate= a function "
        "that gives the accuracy, or min_sqnr= in place of max_drop="
    )
