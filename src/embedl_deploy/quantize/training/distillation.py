"""Training a quantized model to say what the floating-point model says."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.batches import inferring
from embedl_deploy.errors import QuantizationError


class DistillationLoss(nn.Module):
    """The loss of the task mixed with the distance to a teacher's softened probabilities.

    `(1 − weight) · task(output, target) + weight · T² · KL(teacher ‖ model)`, both sides of the
    divergence as the softmax of logits divided by the temperature T (Hinton et al., "Distilling
    the Knowledge in a Neural Network", 2015). Without targets it is the second term alone, which
    needs no labels.

    Args:
        teacher: The floating-point model. It runs in eval mode and gets no gradients; it is no
            part of this module's parameters or state.
        task: Loss of outputs and targets.
        temperature: Softens the probabilities; above 1, small ones count more.
        weight: Share of the teacher, from 0 to 1.
        dim: The dimension of the classes.

    Raises:
        QuantizationError: The temperature is not positive, or the weight is not a share.
    """

    def __init__(
        self,
        teacher: nn.Module,
        task: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        *,
        temperature: float = 2.0,
        weight: float = 0.5,
        dim: int = 1,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise QuantizationError(f"a temperature is above 0, {temperature} is not")
        if not 0 <= weight <= 1:
            raise QuantizationError(f"a weight lies in [0, 1], {weight} does not")
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule
        self.task = task
        self.temperature = temperature
        self.weight = weight
        self.dim = dim

    def forward(self, output: Tensor, target: Tensor | None, *inputs: Any) -> Tensor:
        """The loss.

        Args:
            output: Logits of the model that learns.
            target: What `task` compares them with; `None` without labels.
            inputs: What the model was called with, for the teacher.

        Raises:
            QuantizationError: The teacher's logits have another shape.
        """
        (model,) = self._teacher
        with inferring(model):
            teacher = model(*inputs)
        if teacher.shape != output.shape:
            raise QuantizationError(
                f"the teacher gives {tuple(teacher.shape)} and the model {tuple(output.shape)}; "
                "both have to give logits of the same classes"
            )
        distance = self._distance(output, teacher)
        if target is None:
            return distance
        return (1 - self.weight) * self.task(output, target) + self.weight * distance

    def _distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        """The divergence, averaged over all that is classified, in float32 at least."""
        dtype = torch.promote_types(output.dtype, torch.float32)
        said, wanted = (
            (one.to(dtype) / self.temperature).log_softmax(self.dim) for one in (output, teacher)
        )
        each = F.kl_div(said, wanted, reduction="none", log_target=True).sum(self.dim)
        return each.mean() * self.temperature**2
