"""The loss is Hinton's, the teacher is left alone, and the model comes near it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import DistillationLoss, QuantConfig, TensorQuantConfig, quantize


class Fixed(nn.Module):
    """Says the same of any input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def oracle(output: list[float], teacher: list[float], temperature: float) -> float:
    """T² Σ p log(p/q), in plain numbers."""
    rows = [[math.exp(one / temperature) for one in row] for row in (output, teacher)]
    q, p = ([one / sum(row) for one in row] for row in rows)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_mixture_of_both_terms(temperature: float) -> None:
    output, said = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss = DistillationLoss(Fixed(said), temperature=temperature, weight=0.3)
    rows = zip(output.tolist(), said.tolist(), strict=True)
    distance = sum(oracle(one, other, temperature) for one, other in rows) / 5
    want = 0.7 * F.cross_entropy(output, labels).item() + 0.3 * distance
    assert loss(output, labels, torch.zeros(5)).item() == pytest.approx(want, rel=1e-5)
    assert loss(output, None, torch.zeros(5)).item() == pytest.approx(distance, rel=1e-5)


def test_classes_may_lie_in_any_dimension() -> None:
    output, said = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    loss = DistillationLoss(Fixed(said), temperature=3.0)
    flat = DistillationLoss(Fixed(said.movedim(1, -1)), temperature=3.0, dim=-1)
    got = loss(output, None, output)
    torch.testing.assert_close(got, flat(output.movedim(1, -1), None, output))
    assert got > 0


def test_the_teacher_is_no_part_of_the_loss_and_stays_as_it_is() -> None:
    teacher = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    mean = teacher.get_buffer("0.running_mean").clone()
    loss = DistillationLoss(teacher)
    x, output = torch.randn(6, 4), torch.randn(6, 3, requires_grad=True)
    assert torch.equal(loss(output, None, x), loss(output, None, x))
    loss(output, None, x).backward()
    assert output.grad is not None
    assert all(one.grad is None for one in teacher.parameters())
    assert teacher.training
    assert torch.equal(teacher.get_buffer("0.running_mean"), mean)
    assert not [*loss.parameters()]
    assert not loss.state_dict()


def test_half_precision_logits_are_compared_in_float32() -> None:
    output = torch.randn(4, 3).bfloat16()
    said = torch.randn(4, 3)
    got = DistillationLoss(Fixed(said))(output, None, output)
    assert got.dtype == torch.float32
    want = DistillationLoss(Fixed(said))(output.float(), None, output)
    assert torch.equal(got, want)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(QuantizationError, match="temperature"):
        DistillationLoss(nn.Identity(), temperature=0)
    with pytest.raises(QuantizationError, match="weight"):
        DistillationLoss(nn.Identity(), weight=1.5)
    with pytest.raises(
        QuantizationError, match=r"the teacher gives \(4, 2\) and the model \(4, 3\)"
    ):
        DistillationLoss(Fixed(torch.zeros(4, 2)))(torch.zeros(4, 3), None, torch.zeros(4))


def test_without_labels_a_coarse_model_comes_nearer_to_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    data = torch.randn(64, 8)
    config = QuantConfig(weights=TensorQuantConfig(2, scale="learned"))
    model = quantize(transform(teacher), [data], config)
    loss = DistillationLoss(teacher)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(model.train()(data), None, data)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.3 * losses[0]
