"""The text example: its grammar, its model, and the file that is made of it."""

import random
from collections.abc import Iterator

import pytest
import torch

from embedl_deploy.export import Evaluation, Parity
from examples.text.__main__ import deploy
from examples.text.data import LENGTH, NOUNS, NUMBERS, VERBS, WORDS, encoded, sentence, sentences
from examples.text.model import Grammar, Recipe, judged, trained

FEW = Recipe(sentences=32, epochs=60, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def model() -> Iterator[Grammar]:
    """A model that knows 32 sentences by heart."""
    with torch.random.fork_rng(devices=[]):
        yield trained(FEW, width=32)


@pytest.fixture(scope="module")
def deployed(model: Grammar, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Parity]:
    known = sentences(FEW.sentences, seed=1)
    return deploy(model, tmp_path_factory.mktemp("out") / "text.onnx", known, known)[1:]


@pytest.mark.parametrize("right", [True, False])
def test_the_verb_agrees_with_the_first_noun_where_it_should(*, right: bool) -> None:
    draw = random.Random(0)  # noqa: S311 - no secret
    for _ in range(200):
        words = sentence(draw, right=right)
        subject = next(
            word
            for word in words
            if word in NOUNS or word.rstrip("s") in NOUNS or word == "children"
        )
        (verb,) = [word for word in words if word.removesuffix("s") in VERBS]
        assert ((subject not in NOUNS) == (verb in VERBS)) == right


def test_sentences_are_numbers_and_padding() -> None:
    assert len(NUMBERS) == len(WORDS)
    numbers = encoded(["the", "dogs", "sleep"])
    assert [WORDS[number] for number in numbers[:5]] == ["[CLS]", "the", "dogs", "sleep", "[SEP]"]
    data = sentences(300, seed=0)
    assert data.tokens.shape == data.mask.shape == (300, LENGTH)
    assert torch.equal(data.mask.sum(1), (data.tokens != 0).sum(1))
    assert 100 < data.labels.sum() < 200
    assert torch.equal(sentences(300, seed=0).tokens, data.tokens)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model, data = Grammar(width=32).eval(), sentences(8, seed=0)
    least = int(data.mask.sum(1).max())
    assert least < LENGTH
    whole = model(data.tokens, data.mask)
    torch.testing.assert_close(model(data.tokens[:, :least], data.mask[:, :least]), whole)


def test_the_judge_counts() -> None:
    data = sentences(20, seed=0)
    sure = torch.nn.functional.one_hot(data.labels, 2) * 20.0
    rows = iter(torch.cat([sure[:15], -sure[15:]]).split(7))
    found = judged(lambda *_: next(rows), data, 7)
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["loss"] == pytest.approx(5.0, abs=1e-3)  # five of twenty are wrong by 20


def test_int8_judges_as_float_does(deployed: tuple[Evaluation, Parity]) -> None:
    evaluation, parity = deployed
    assert parity.only_ties
    assert evaluation.model["accuracy"] > 0.95
    assert evaluation.file["accuracy"] > evaluation.model["accuracy"] - 0.05
    assert evaluation.file["loss"] == pytest.approx(evaluation.model["loss"], abs=0.1)
