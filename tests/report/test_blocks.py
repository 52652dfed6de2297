"""Tables for the terminal."""

import pytest
from rich.console import Console

from embedl_deploy.report.blocks import columns

CELLS = ("18", "FusedScaledDotProductAttention", "RESIDUAL_INPUT", "blocks.0.0.attn.attention")


def printed(width: int) -> list[list[str]]:
    """The words of each line."""
    table = columns(
        "Count", "Fused module", "Points", "At", right=("Count",), whole=("Fused module",)
    )
    table.add_row(*CELLS)
    console = Console(width=width)
    with console.capture() as said:
        console.print(table)
    return [line.split() for line in said.get().splitlines()]


def test_a_name_is_whole_and_the_path_goes_on_in_the_next_line() -> None:
    _, first, second = printed(78)
    assert first[:3] == list(CELLS[:3])
    assert [first[3] + second[0]] == [CELLS[3]]


@pytest.mark.parametrize("width", [40, 60, 69, 70, 100])
def test_nothing_is_cut(width: int) -> None:
    letters = sorted("".join(word for line in printed(width) for word in line))
    assert letters == sorted("".join(("Count", "Fusedmodule", "Points", "At", *CELLS)))
