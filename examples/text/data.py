"""Generated English sentences, half of them with a verb that does not agree with its subject.

Nouns of either number stand between the two, so that the last noun before the verb does not tell:
"the dogs near the car of the teacher sleep".
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

NOUNS = (
    "dog",
    "cat",
    "car",
    "teacher",
    "child",
    "house",
    "bird",
    "farmer",
    "doctor",
    "tree",
    "boat",
    "friend",
)
VERBS = ("sleep", "run", "sing", "wait", "fall", "jump", "laugh", "work")
BETWEEN = ("near", "behind", "of", "with", "above", "beside")
ADJECTIVES = ("old", "small", "red", "quiet", "happy", "green")
ADVERBS = ("today", "often", "here", "quickly")
PLURALS = {"child": "children"}
LENGTH = 20
"""Tokens of a sentence, [CLS], [SEP] and padding included."""


def _plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


WORDS = (
    *("[PAD]", "[CLS]", "[SEP]", "the"),
    *(*NOUNS, *map(_plural, NOUNS), *VERBS, *(f"{verb}s" for verb in VERBS)),
    *(*BETWEEN, *ADJECTIVES, *ADVERBS),
)
NUMBERS = {word: index for index, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Sentences:
    """Token numbers and mask, int64 of shape (N, 20), and labels (N,): 1 is grammatical."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor


def sentences(count: int, seed: int) -> Sentences:
    """`count` sentences; the same seed gives the same ones."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    labels = [draw.randrange(2) for _ in range(count)]
    tokens = torch.tensor([encoded(sentence(draw, right=bool(one))) for one in labels])
    return Sentences(tokens, (tokens != 0).long(), torch.tensor(labels))


def encoded(words: list[str]) -> list[int]:
    """Numbers of the words between [CLS] and [SEP], padded."""
    numbers = [NUMBERS[word] for word in ("[CLS]", *words, "[SEP]")]
    return numbers + [NUMBERS["[PAD]"]] * (LENGTH - len(numbers))


def sentence(draw: random.Random, *, right: bool) -> list[str]:
    """The words of a sentence whose verb agrees with its first noun, or does not."""
    plural = draw.random() < 0.5
    words = _phrase(draw, plural=plural)
    for _ in range(draw.randrange(4)):
        words += [draw.choice(BETWEEN), *_phrase(draw, plural=draw.random() < 0.5)]
    verb = draw.choice(VERBS)
    words.append(verb if plural == right else f"{verb}s")
    return words + ([draw.choice(ADVERBS)] if draw.random() < 0.5 else [])


def _phrase(draw: random.Random, *, plural: bool) -> list[str]:
    noun = draw.choice(NOUNS)
    adjective = [draw.choice(ADJECTIVES)] if draw.random() < 0.3 else []
    return ["the", *adjective, _plural(noun) if plural else noun]
