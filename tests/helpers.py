"""Small models in one line, warmed-up weights, and comparisons that cannot be vacuous."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from embedl_deploy import Result
from embedl_deploy.graph.sizes import check_input

RELATIVE = 1e-5


def net(forward: Callable[..., Any], **parts: object) -> Any:
    """A module with this `forward(self, …)`; tensors among its parts become buffers."""
    module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            module.register_buffer(name, part)
        else:
            setattr(module, name, part)
    return module


def warm(model: nn.Module) -> nn.Module:
    """Random statistics and factors of both signs, so that no layer is an identity or silent."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.std(correction=0) > 1e-4:
            signs = torch.randint(0, 2, parameter.shape, device=parameter.device) * 2 - 1
            parameter.data = (torch.rand_like(parameter) * 0.7 + 0.3) * signs.to(parameter.dtype)
    return model


def tensors(tree: object) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def run(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    with torch.no_grad():
        return model(*args, **(kwargs or {}))


def assert_close(got: object, want: object, relative: float = RELATIVE) -> None:
    """Equal up to rounding, relative to the largest value; `want` must say something."""
    mine, its = tensors(got), tensors(want)
    assert len(mine) == len(its) > 0
    for one, other in zip(mine, its, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert one.isfinite().all()
        assert other.numel() == 1 or other.double().std() > 0, "a constant shows nothing"
        error = (one.double() - other.double()).abs().max()
        assert error <= relative * other.double().abs().max(), f"off by {error:.3g}"


def assert_same_eval(
    model: nn.Module, result: Result | nn.Module, args: Sequence[Any], relative: float = RELATIVE
) -> None:
    """The transformed model in eval mode computes what the untouched model computes."""
    transformed = result.model if isinstance(result, Result) else result
    assert_close(run(transformed.eval(), args), run(model.eval(), args), relative)


def assert_same_training(
    model: nn.Module, result: Result, args: Sequence[Any], relative: float = RELATIVE
) -> None:
    """One training step gives the same output, gradients and batch-norm statistics.

    `result` is of `transform(…, copy=False)`: what belongs together shares its memory.
    """
    before = {buffer.data_ptr(): buffer.clone() for buffer in model.buffers()}
    want, gradients, statistics = _step(model, args)
    for buffer in model.buffers():
        buffer.data.copy_(before[buffer.data_ptr()])
    got, its_gradients, its_statistics = _step(result.model, args)
    assert_close(got, want, relative)
    assert gradients.keys() == its_gradients.keys()
    assert {key for key, one in statistics.items() if (one != before[key]).any()} <= {
        *its_statistics
    }
    scale = max((float(one.abs().max()) for one in gradients.values()), default=0.0)
    for key, gradient in gradients.items():
        other = its_gradients[key].reshape(gradient.shape)
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=relative * scale)
    for key in statistics.keys() & its_statistics.keys():
        torch.testing.assert_close(its_statistics[key], statistics[key], rtol=1e-5, atol=1e-6)


def _step(
    model: nn.Module, args: Sequence[Any]
) -> tuple[list[Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """Output, gradients and buffers after one step; the last two by memory address.

    Gradients of the inputs stand under their position.
    """
    for parameter in model.parameters():
        parameter.grad = None
    generator = torch.Generator().manual_seed(1)
    inputs = [one.clone().requires_grad_(one.is_floating_point()) for one in args]
    outputs = tensors(model(*inputs))
    draws = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in outputs]
    sum((one * draw).sum() for one, draw in zip(outputs, draws, strict=True)).backward()  # type: ignore[union-attr]
    gradients = {
        parameter.data_ptr(): parameter.grad.clone()
        for parameter in model.parameters()
        if parameter.grad is not None
    }
    gradients |= {index: one.grad for index, one in enumerate(inputs) if one.grad is not None}
    buffers = {buffer.data_ptr(): buffer.clone() for buffer in model.buffers()}
    return [one.detach() for one in outputs], gradients, buffers


def addresses(model: nn.Module) -> set[int]:
    """Where the parameters of a model that train lie in memory."""
    return {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}


def kinds(graph: fx.GraphModule) -> Counter[str]:
    """How often each module class and each function stands in a graph; checks of inputs apart."""
    modules = dict(graph.named_modules(remove_duplicate=False))
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.target is check_input:
            continue
        if node.op == "call_module":
            found[type(modules[str(node.target)]).__name__] += 1
        elif node.op in {"call_function", "call_method"}:
            found[getattr(node.target, "__name__", str(node.target))] += 1
    return found


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a transformation could disturb."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "tensors": [(id(one), one.dtype, one.requires_grad) for one in model.parameters()],
        "buffers": [(id(one), one.dtype) for one in model.buffers()],
        "modules": [(path, id(one), type(one)) for path, one in model.named_modules()],
        "training": [one.training for one in model.modules()],
        "inplace": [getattr(one, "inplace", None) for one in model.modules()],
        "hooks": [list(getattr(one, name).values()) for one in model.modules() for name in hooks],
        "attributes": [sorted(vars(one)) for one in model.modules()],
        "gradients": [one.grad for one in model.parameters()],
    }


def assert_untouched(model: nn.Module, before: Mapping[str, Any]) -> None:
    after = snapshot(model)
    mine, its = after.pop("state"), dict(before).pop("state")
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert after == {key: value for key, value in before.items() if key != "state"}
