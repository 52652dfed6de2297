"""What kind of value a node gives, for a model's code that asks: a tensor, or several."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

_SEVERAL = frozenset(
    {
        *("aminmax", "broadcast_tensors", "chunk", "cummax", "cummin", "dsplit", "eigh", "frexp"),
        *("hsplit", "kthvalue", "meshgrid", "mode", "multi_head_attention_forward", "qr", "sort"),
        *("slogdet", "split", "split_with_sizes", "std_mean", "svd", "tensor_split", "topk"),
        *("unbind", "unique_consecutive", "var_mean", "vsplit"),
    }
)
"""Functions and methods that give several tensors."""

_SEVERAL_BY_DIM = frozenset({"max", "median", "min", "nanmedian"})
"""Those that do so where they are given a dimension."""

_SEVERAL_MODULES = (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention)


@contextmanager
def types_of_values(
    model: nn.Module,
    type_of: Callable[[Any], type[Any] | None],
    functions: Sequence[Callable[..., Any]] = (),
) -> Iterator[None]:
    """Let the model's code ask for types of traced values: by `isinstance` or `torch.is_tensor`.

    `isinstance` is another one in the modules that define the model's classes, and there alone:
    PyTorch's own code has to see what traces.

    Args:
        model: The model.
        type_of: The type of a traced value, `None` of any other object.
        functions: Functions in whose modules it is another one as well.
    """

    def asked(value: Any, kinds: Any) -> bool:
        found = type_of(value)
        return isinstance(value, kinds) or (found is not None and issubclass(found, kinds))

    methods = [
        one
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
        if base.__module__.partition(".")[0] not in {"torch", "embedl_deploy"}
        for one in vars(base).values()
    ]
    spaces = {
        id(one.__globals__): one.__globals__
        for one in (*methods, *map(inspect.unwrap, functions))
        if isinstance(one, FunctionType) and "isinstance" not in one.__globals__
    }
    library: Any = torch
    is_tensor, is_kind = library.is_tensor, library.jit.isinstance
    try:
        for space in spaces.values():
            space["isinstance"] = asked
        library.is_tensor = lambda value: asked(value, Tensor)
        library.jit.isinstance = lambda value, kind: (
            is_kind(value, kind) if type_of(value) is None else asked(value, kind)
        )
        yield
    finally:
        library.is_tensor, library.jit.isinstance = is_tensor, is_kind
        for space in spaces.values():
            del space["isinstance"]


def given_type(node: fx.Node, module_at: Callable[[str], nn.Module]) -> type[Any]:
    """The type of what a node gives, no size among it: a tensor or a tuple of them.

    Args:
        node: The node.
        module_at: The module at a path.
    """
    if node.op == "call_module":
        module = module_at(str(node.target))
        several = isinstance(module, _SEVERAL_MODULES) or getattr(module, "return_indices", False)
        return tuple if several else Tensor
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    by_dim = "dim" in node.kwargs or any(type(one) is int for one in node.args[1:])
    return tuple if name in _SEVERAL or (name in _SEVERAL_BY_DIM and by_dim) else Tensor
