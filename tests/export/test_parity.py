"""The figures of a comparison, and what counts as a rounding tie."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from embedl_deploy.export import Parity, StubParity
from embedl_deploy.report.parity import answers_dict, parity_dict


def stub(steps: Tensor, computed: Tensor) -> StubParity:
    parity = StubParity("x")
    parity.add(steps, computed)
    return parity


def parity(differing: int, values: int, distance: float = 0.0, largest: int = 1) -> Parity:
    one = StubParity("x", values, differing, largest if differing else 0, distance)
    return Parity(rounding_difference=0.0, stubs={"x": one})


def test_equal_integers_differ_nowhere() -> None:
    steps = torch.tensor([1.4, -127.6, 0.5, 126.8])
    assert stub(steps, torch.tensor([1, -128, 0, 127])) == StubParity("x", 4, 0, 0, 0.0)


def test_a_tie_is_a_step_from_the_middle() -> None:
    found = stub(torch.tensor([2.5001, 7.0]), torch.tensor([2, 7], dtype=torch.int8))
    assert (found.values, found.differing, found.largest) == (2, 1, 1)
    assert found.distance == pytest.approx(1e-4, rel=0.01)
    assert found.share == 0.5


def test_what_lies_before_the_rounding_counts_where_it_is_known() -> None:
    steps, integers = torch.tensor([0.3, 3.0]), torch.tensor([0, 3], dtype=torch.int8)
    found = StubParity("x")
    found.add(steps, integers, steps + torch.tensor([0.0, 0.1]))
    assert found.differing == 0
    assert found.distance == pytest.approx(0.1, rel=1e-5)
    found.add(steps, integers, steps)
    assert not Parity(rounding_difference=0.0, stubs={"x": found}).only_ties


def test_the_figures_of_batches_add_up() -> None:
    found = StubParity("x")
    for steps in (torch.tensor([0.2, 0.2]), torch.tensor([3.1, 0.2])):
        found.add(steps, torch.tensor([0, 0], dtype=torch.int8))
    found.add(torch.tensor([1.9]), torch.tensor([1], dtype=torch.int8))
    assert (found.values, found.differing, found.largest) == (5, 2, 3)
    assert found.distance == pytest.approx(1.6, rel=1e-4)


def test_ties_alone_are_few_close_and_one_step() -> None:
    assert parity(0, 100).only_ties
    assert parity(1, 100).only_ties
    assert parity(10, 100_000, distance=1e-5).only_ties
    assert not parity(11, 100_000).only_ties
    assert not parity(2, 100).only_ties
    assert not parity(1, 100_000, distance=0.1).only_ties
    assert not parity(1, 100_000, largest=2).only_ties


def test_numbers_that_are_equal_are_said_to_be() -> None:
    found = parity(0, 1000, largest=0, distance=0.0)
    found.add(torch.tensor([10.0]), torch.tensor([9.0]))
    assert str(found).endswith("; at 1 stub no rounded number differs")


def test_what_was_not_compared_is_not_said_to_be_equal() -> None:
    found = Parity()
    found.add(torch.ones(3), torch.ones(3))
    assert not found.only_ties
    found.add_rounding(torch.ones(3), torch.ones(3))
    assert found.only_ties


@pytest.mark.parametrize(
    ("simulated", "computed", "equal"),
    [
        ([100.0, 1.0], [100.0, 1.0], True),
        ([100.0, 1.0], [100.001, 1.0], True),
        ([100.0, 1.0], [100.01, 1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 0.5], False),
        ([1.0, math.nan], [1.0, 1.0], False),
        ([1.0, 1.0], [1.0, math.nan], False),
        ([1.0, math.nan], [1.0, math.nan], True),
        ([1.0, -math.inf], [1.0, -math.inf], True),
        ([1.0, math.inf], [1.0, -math.inf], False),
        ([1.0, -math.inf], [1.5, -math.inf], False),
        ([1.0, 1.0], [1.0, math.inf], False),
        ([], [], True),
    ],
)
def test_outputs_differ_by_the_rounding_of_sums(
    simulated: list[float], computed: list[float], *, equal: bool
) -> None:
    for first in (False, True):  # a small or a bad value is not forgotten over a later batch
        found = Parity()
        found.add_rounding(torch.tensor(simulated), torch.tensor(computed))
        if first:
            found.add_rounding(torch.ones(2), torch.ones(2))
        assert found.only_ties == equal


def test_each_output_counts_by_its_own_size() -> None:
    found = Parity()
    found.add_rounding(torch.tensor([1e6]), torch.tensor([1e6]))
    found.add_rounding(torch.tensor([1e-3]), torch.tensor([1.1e-3]))
    assert not found.only_ties


def test_the_sqnr_is_that_of_all_outputs() -> None:
    found = Parity()
    found.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]))
    assert found.sqnr_db == math.inf
    found.add(torch.tensor([12.0]), torch.tensor([10.7]))
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.largest_step_difference == pytest.approx(1.3 / 12 * 127)
    assert found.values == 3


def test_a_difference_from_zeros_is_infinite_and_of_nothing_is_not_measured() -> None:
    found = Parity()
    (empty,) = _outputs(found, torch.zeros(0), torch.zeros(0))
    figures = ("sqnr_db", "largest_difference", "largest_magnitude")
    assert [empty[key] for key in (*figures, "largest_relative_difference")] == [None] * 4
    assert parity_dict(found)["largest_difference"] is None
    assert parity_dict(found)["largest_step_difference"] is None
    (same,) = _outputs(found, torch.zeros(2), torch.zeros(2))
    assert (same["largest_difference"], same["largest_relative_difference"]) == (0, 0)
    (other,) = _outputs(found, torch.zeros(2), torch.ones(2))
    assert (other["largest_difference"], other["largest_relative_difference"]) == (1, None)
    assert found.largest_step_difference == math.inf
    assert parity_dict(found)["largest_step_difference"] is None


def _outputs(found: Parity, wanted: Tensor, computed: Tensor) -> list[dict[str, Any]]:
    found.add_output("y", wanted, computed)
    outputs: list[dict[str, Any]] = answers_dict(found)["outputs"]
    return outputs


def test_a_parity_reads_as_a_sentence() -> None:
    found = parity(1, 1000)
    found.add(torch.tensor([10.0]), torch.tensor([9.0]))
    assert str(found) == (
        "output SQNR 20.0 dB, largest output difference 12.700 steps; "
        "at 1 stub 1.0e-03 of the numbers differ, by at most 1 step"
    )


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (parity(0, 10, distance=0.25), "; first at 'x', values differ by 0.25 steps"),
        (parity(1, 10, distance=7.5, largest=8), "; first at 'x', values differ by 7.5 steps"),
        (
            Parity(rounding_difference=0.5, stubs={"x": StubParity("x", 9)}),
            "; from the same integers outputs differ by 5.0e-01",
        ),
        (parity(5, 10), ""),
    ],
)
def test_a_parity_says_what_is_wrong(found: Parity, fault: str) -> None:
    assert not found.only_ties
    assert re.search(f"(steps?|differs){re.escape(fault)}$", str(found))
