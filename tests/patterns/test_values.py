"""The words for values: shared ones, alternatives, parameters, numbers, and what a site tells."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import PatternError
from embedl_deploy.patterns import (
    ADD,
    DIV,
    MATMUL,
    MEAN,
    MUL,
    SIGMOID,
    SUB,
    Call,
    ConversionPattern,
    Site,
    Source,
    Tree,
    Value,
    again,
    chain,
    either,
    factor,
    fork,
    hole,
    op,
    optional,
    own,
    scaled,
)
from embedl_deploy.patterns.parts import inputs, names
from tests.helpers import assert_same_eval, kinds, net

X = hole("x")


class Taken(nn.Module):
    """Stands in for what was matched; gives the first of what it is called with."""

    def forward(self, *given: Tensor | None) -> Any:
        return next(one for one in given if one is not None)


def found(model: Any, tree_: Tree, *args: Tensor) -> Result:
    """What a conversion with this tree finds."""

    class Looks(ConversionPattern):
        tree = tree_

        def build(self) -> nn.Module:
            return Taken()

    return transform(model, args or (torch.randn(3, 4),), patterns=[Looks])


SELF = fork(MUL, X, fork(SIGMOID, X))


@pytest.mark.parametrize(
    ("forward", "count"),
    [
        (lambda _, x: x * x.sigmoid(), 1),
        (lambda _, x: x.sigmoid() * x, 1),
        (lambda _, x: (x + 1) * x.sigmoid(), 0),
        (lambda _, x: x.sigmoid() * x.sigmoid(), 0),
    ],
)
def test_holes_of_one_name_are_one_value(forward: Any, count: int) -> None:
    assert len(found(net(forward), SELF).matches) == count


CENTRED = fork(SUB, X, fork(MEAN, X))
SQUARED = fork(MUL, CENTRED, again(SUB))


def test_a_value_that_the_tree_has_twice_may_be_used_twice() -> None:
    result = found(net(lambda _, x: (y := x - x.mean(-1, keepdim=True)) * y), SQUARED)
    assert len(result.matches) == 1
    assert kinds(result.model) == {}


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda _, x: (x - x.mean()) * (x - x.mean()), None),
        (lambda _, x: (y := x - x.mean()) * y * y, "'sub' is also used by 'mul_1'"),
        (lambda _, x: ((y := x - x.mean()) * y, y), "'sub' is also used by 'output'"),
    ],
)
def test_a_value_that_is_used_once_more_or_is_another_is_no_match(
    forward: Any, reason: str | None
) -> None:
    result = found(net(forward), SQUARED)
    assert not result.matches
    assert [reason for one in result.refusals] == ([] if reason is None else [reason])
    assert all(reason in one.reason for one in result.refusals if reason)


ANY = either(fork(DIV, X, hole("y")), fork(MUL, fork(ADD, X, hole("z")), hole("y")), fork(SUB, X))


def test_alternatives_are_all_found_and_what_is_missing_is_none() -> None:
    seen: list[tuple[bool, ...]] = []

    class Sees(nn.Module):
        def forward(self, *given: Tensor | None) -> Any:
            seen.append(tuple(one is not None for one in given))
            return given[0]

    class Looks(ConversionPattern):
        tree = ANY

        def build(self, **_: Any) -> nn.Module:
            return Sees()

    model = net(lambda _, x, y: (x / y, (x + y) * x, x - 2))
    result = transform(model, (torch.randn(3), torch.randn(3)), patterns=[Looks])
    assert len(result.matches) == 3
    assert list(dict.fromkeys(inputs(ANY))) == ["x", "y", "z"]
    assert set(seen) == {(True, True, False), (True, True, True), (True, False, False)}
    assert sorted(names(ANY)) == ["add", "div", "mul", "sub"]


def test_the_longer_alternative_wins() -> None:
    tree = either(fork(ADD, X, hole("y")), fork(ADD, fork(MUL, X, hole("z")), hole("y")))
    result = found(net(lambda _, x: x * x.exp() + x), tree)
    assert kinds(result.model)["mul"] == 0


def test_a_parameter_is_bound_and_not_passed_on() -> None:
    bound: dict[str, Any] = {}

    class Looks(ConversionPattern):
        tree = fork(MUL, X, own("weight"))

        def build(self, weight: nn.Parameter) -> nn.Module:
            bound["weight"] = weight
            return Taken()

    model = net(
        lambda m, x: (m.weight * x, x * m.fixed, x * x),
        weight=nn.Parameter(torch.ones(4)),
        fixed=torch.ones(4),
    )
    result = transform(model, (torch.randn(3, 4),), patterns=[Looks], copy=False)
    assert len(result.matches) == 1
    assert bound["weight"] is model.weight


@pytest.mark.parametrize(
    ("forward", "by"),
    [
        (lambda _, x: x * 0.5, 0.5),
        (lambda _, x: 0.5 * x, 0.5),
        (lambda _, x: x / 2, 0.5),
        (lambda _, x: x * 0.25, 0.25),
    ],
)
def test_a_scale_is_a_product_or_a_quotient(forward: Any, by: float) -> None:
    bound: list[float] = []

    class Looks(ConversionPattern):
        tree = fork(scaled("scale"), X)

        def build(self, scale: Call) -> nn.Module:
            bound.append(factor(scale))
            return Taken()

    transform(net(forward), (torch.randn(3),), patterns=[Looks])
    assert bound == [by]
    halves = found(net(forward), fork(scaled("half", 0.5), X), torch.randn(3)).matches
    assert bool(halves) is (by == 0.5)


@pytest.mark.parametrize("forward", [lambda _, x: 2 / x, lambda _, x: x / x, lambda _, x: x + 2])
def test_what_is_no_scale(forward: Any) -> None:
    assert not found(net(forward), fork(scaled("scale"), X)).matches
    assert factor(None) == 1.0


def test_the_last_arguments_may_be_given() -> None:
    tree = fork(MEAN.taking((-1,), True), X)
    model = net(lambda _, x: (x.mean(-1, keepdim=True), x.mean(-1), x.mean(0, keepdim=True)))
    assert len(found(model, tree).matches) == 1
    third = ADD.taking(1 / 3)
    calls = [Call(operator.add, (Value(None), one), {}) for one in (0.33333334, 1 / 3, 0.3333, "x")]
    assert [third.accepts(call) for call in calls] == [True, True, False, False]


def test_an_operation_that_takes_further_tensors_is_no_match() -> None:
    tree = fork(op("where", torch.where), X)
    assert not found(net(lambda _, x: torch.where(x > 0, x, x * 2)), tree).matches
    sized = fork(op("reshape", torch.reshape), X)
    assert found(net(lambda _, x: x.reshape(x.shape[0], -1)), sized).matches
    assert found(net(lambda _, x: x.reshape(x.shape[0], -1)), sized).matches


def test_a_method_without_a_function_is_named_by_its_name() -> None:
    model = net(lambda _, x: x.type_as(x) * 2)
    assert len(found(model, op("cast", "Tensor.type_as")).matches) == 1


def test_what_gives_nothing_is_taken_out() -> None:
    class Nothing(nn.Module):
        def forward(self, *_: Any) -> None:
            pass

    class Removes(ConversionPattern):
        tree = op("assertion", torch._assert)

        def build(self) -> nn.Module:
            return Nothing()

    def forward(_: Any, x: Tensor) -> Tensor:
        torch._assert(x.shape[0] == 3, "three")
        return x * 2

    model = net(forward)
    result = transform(model, (torch.randn(3, 4),), patterns=[Removes])
    assert kinds(result.model) == {"mul": 1}
    assert_same_eval(model, result, (torch.randn(3, 4),))


def test_a_site_tells_of_values_and_their_use() -> None:
    told: dict[str, Any] = {}

    class Asks(ConversionPattern):
        tree = chain(fork(MATMUL, X, hole("y")), optional(op("tanh", nn.Tanh)))

        def refuse(self, site: Site) -> str | None:
            told.update(
                x=site.value("x"), out=site.value("matmul"), unpacked=site.is_unpacked("matmul")
            )
            return "asked"

        def build(self) -> nn.Module:
            raise AssertionError

    def ask(forward: Any, *args: Tensor) -> dict[str, Any]:
        told.clear()
        transform(net(forward), args or None, patterns=[Asks])
        return dict(told)

    double = torch.randn(3, 3).double()
    shaped = Value((3, 3), torch.float64)
    whole = ask(lambda _, x: x @ x, double)
    assert whole == {"x": shaped, "out": shaped, "unpacked": False}
    assert ask(lambda _, x: ((y := x @ x)[0], y[2]), double)["unpacked"]
    assert not ask(lambda _, x: ((y := x @ x)[0], y.exp()), double)["unpacked"]
    assert ask(lambda _, x: x @ x)["x"] == Value(None)


@pytest.mark.parametrize(
    ("tree_", "message"),
    [
        (fork(MUL, again(SUB), fork(SUB, X)), r"again\('sub'\) where nothing has that name"),
        (fork(MUL, fork(SUB, X), fork(SUB, X)), "binds 'sub' twice"),
    ],
)
def test_what_a_tree_can_not_say_is_said_when_the_class_is_defined(
    tree_: Tree, message: str
) -> None:
    with pytest.raises(PatternError, match=message):

        class Wrong(ConversionPattern):
            tree = tree_

            def build(self) -> nn.Module:
                raise AssertionError


def test_alternatives_are_trees() -> None:
    wrong: Any = nn.ReLU
    with pytest.raises(PatternError, match="either\\(\\) is given"):
        either(wrong)
    choice: Source = either(X, fork(SIGMOID, X))
    assert list(inputs(choice)) == ["x", "x"]
