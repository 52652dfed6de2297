"""Which layers are equal, by their names and shapes."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from embedl_deploy import transform
from embedl_deploy.quantize import insert_qdq
from embedl_deploy.tuning.groups import groups_of


def network(name: Callable[[int], str], widths: list[int]) -> nn.Module:
    """A block of that name for each width but the last."""
    model = nn.Sequential()
    for index, (width, following) in enumerate(pairwise(widths)):
        block = nn.Sequential()
        block.add_module("fc", nn.Linear(width, following))
        block.add_module("act", nn.Tanh())
        model.add_module(name(index), block)
    return model.eval()


def found(model: nn.Module) -> dict[str, int]:
    """How many layers each group has."""
    quantized = insert_qdq(transform(model, (torch.rand(2, 4),)))
    groups = groups_of(quantized)
    fused = [path for one in groups for path in one.paths]
    assert len(fused) == len({*fused})
    for one in groups:
        alone = [other.pattern for other in groups].count(one.pattern) == 1
        assert one.skips(fused) == ((one.pattern,) if alone else one.paths)
    return {one.name: len(one.paths) for one in groups}


@pytest.mark.parametrize("name", ["{}", "layer_{}", "layer{}", "block1-{}"])
def test_many_blocks_with_numbers_in_their_names_are_one_group(name: str) -> None:
    starred = name.replace("{}", "*").replace("block1", "block*")
    assert found(network(name.format, [4] * 31)) == {f"{starred}.fc": 30}


def test_a_few_of_them_are_told_apart_by_their_names() -> None:
    assert found(network("layer{}".format, [4] * 4)) == {f"layer{n}.fc": 1 for n in range(3)}


def test_no_two_groups_have_one_name() -> None:
    """A search knows groups by their names; these differ in their class alone."""
    model = network("{}".format, [4] * 7)
    for index in range(3):
        block = model.get_submodule(str(index))
        block.register_module("act", nn.ReLU())
    assert found(model) == {"*.fc 4×4 LinearReLU": 3, "*.fc 4×4 Linear": 3}


def test_shapes_tell_blocks_apart_while_there_are_few() -> None:
    assert found(network("layer_{}".format, [4] * 21 + [8] * 9)) == {
        "layer_*.fc 4×4": 20,
        "layer_*.fc 8×4": 1,
        "layer_*.fc 8×8": 8,
    }
    assert found(network("layer_{}".format, [*range(4, 35)])) == {"layer_*.fc": 30}
