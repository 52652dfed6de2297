"""A small BERT of transformers, made from its configuration, and its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedl_deploy.cli.torchvision_ops import import_torchvision
from examples.text.data import LENGTH, WORDS, Sentences, sentences

Progress = Callable[[int, int, float], None]
"""Called after each epoch with its number (from 1), the number of epochs and the mean loss."""


@dataclass(frozen=True)
class Recipe:
    """How to train it."""

    sentences: int = 8192
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


class Grammar(nn.Module):
    """Gives logits (N, 2) for tokens and mask (N, 20); class 1 is grammatical."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        import_torchvision()  # transformers imports it where it is installed
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=2 * width,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Any = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        logits: Tensor = found.logits
        return logits


def trained(recipe: Recipe, progress: Progress | None = None, **sizes: int) -> Grammar:
    """A model in eval mode, trained anew; torch's global random state stays as it was."""
    data = sentences(recipe.sentences, seed=1 + recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Grammar(**sizes).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
        steps = -(-recipe.sentences // recipe.batch_size) * recipe.epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
        for epoch in range(1, recipe.epochs + 1):
            losses = []
            for chosen in torch.randperm(recipe.sentences).split(recipe.batch_size):
                output = model(data.tokens[chosen], data.mask[chosen])
                loss = F.cross_entropy(output, data.labels[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            if progress is not None:
                progress(epoch, recipe.epochs, sum(losses) / len(losses))
    return model.eval()


@torch.no_grad()
def judged(predict: Callable[..., Tensor], data: Sentences, size: int = 250) -> dict[str, float]:
    """The share of sentences that are judged rightly, and the mean cross-entropy."""
    parts = zip(data.tokens.split(size), data.mask.split(size), strict=True)
    logits = torch.cat([predict(tokens, mask) for tokens, mask in parts])
    right = (logits.argmax(1) == data.labels).float().mean()
    return {"accuracy": right.item(), "loss": F.cross_entropy(logits, data.labels).item()}
