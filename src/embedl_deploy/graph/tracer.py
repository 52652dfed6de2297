"""Symbolic tracing that keeps fused modules whole and says where it had to stop."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx, nn

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.constants import Constants
from embedl_deploy.graph.kinds import given_type, types_of_values
from embedl_deploy.graph.proxies import TensorProxy, ValueProxy, is_size
from embedl_deploy.graph.stand_ins import StandInTracer
from embedl_deploy.graph.stops import stopped
from embedl_deploy.graph.writes import called, is_write
from embedl_deploy.modules import LeafModule

RANDOM_DEPTH = ("StochasticDepth", "DropPath")
"""Classes that drop residual branches in training (torchvision, timm); they stay modules."""

_COMPOSED = (
    nn.Transformer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)
"""Modules of torch.nn that are made of others, which patterns are to see."""


class _Own(dict[str, Any]):
    """Modules and tensors of a model by path, as they were when a node first named them."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__(root.named_modules(remove_duplicate=False))
        self.update(root.named_parameters(remove_duplicate=False))
        self.update(root.named_buffers(remove_duplicate=False))


class Tracer(StandInTracer):
    """`torch.fx`'s tracer with the library's leaves; tensors are looked up in constant time.

    Args:
        omitted: Inputs that take their default value; the graph does not have them.
        kinds: Types of the example inputs, by name.
    """

    def __init__(
        self, omitted: Collection[str] = (), kinds: Mapping[str, type] = MappingProxyType({})
    ) -> None:
        super().__init__(autowrap_functions=())
        self._names: dict[int, str] = {}
        self._omitted = omitted
        self._kinds = kinds
        self._functions: tuple[Callable[..., Any], ...] = ()

    def trace(
        self,
        root: nn.Module | Callable[..., Any],
        concrete_args: dict[str, Any] | None = None,
    ) -> fx.Graph:
        """Trace `root`; see `torch.fx.Tracer.trace`."""
        module = root if isinstance(root, nn.Module) else nn.Module()
        named = (*module.named_buffers(), *module.named_parameters())
        self._names = {id(tensor): name for name, tensor in named}
        self._own = _Own(module)
        self._constants = Constants(self._own, training=module.training)
        with types_of_values(module, self.type_of, self._functions):
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` stays one node."""
        if isinstance(m, LeafModule) or type(m).__name__ in RANDOM_DEPTH:
            return True
        if isinstance(m, _COMPOSED):
            return False
        return plain_base(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: FBT001 - torch's signature
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The arguments of the model, with defaults for those that are omitted."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [self._given(argument) for argument in args]

    def _given(self, argument: Any) -> Any:
        if not isinstance(argument, fx.Proxy) or argument.node.target not in self._omitted:
            return argument
        self.graph.erase_node(argument.node)
        name = str(argument.node.target)
        if name.startswith("*"):
            return {} if name.startswith("**") else ()
        return argument.node.args[0]

    def create_arg(self, a: Any) -> Any:
        """A node argument for `a`; a parameter or buffer becomes a get-attribute node."""
        if isinstance(a, Tensor) and (name := self._names.get(id(a))):
            return self.create_node("get_attr", name, (), {})
        made: Any = super().create_arg(a)
        if isinstance(a, Tensor):
            self._own[str(made.target)] = a
        return made

    def known(self, node: fx.Node) -> Any:
        """The value of a node that follows from the model's own tensors alone, else `None`."""
        written = (
            one.args[0]
            for one in self.graph.nodes
            if one.args and is_write(called(one), one.kwargs)
        )
        if any(isinstance(one, fx.Node) and self._constants.depends(one) for one in written):
            return None
        return self._constants.number(node)

    def type_of(self, value: Any) -> type[Any] | None:
        """The type that a traced value has where the model runs; `None` of what is none.

        An input without an example is a tensor.
        """
        if not isinstance(value, ValueProxy):
            return None
        node = value.node
        if is_size(node) or node.target is getattr:
            return None
        if node.op == "placeholder":
            return self._kinds.get(str(node.target), Tensor)
        return given_type(node, self.root.get_submodule)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The stand-in for a value while the model's code runs."""
        return ValueProxy(node, self)

    def getattr(
        self,
        attr: str,
        attr_val: Any,
        parameter_proxy_cache: dict[str, Any],
    ) -> Any:
        """A module attribute; a tensor becomes one get-attribute node, however often read."""
        if not isinstance(attr_val, Tensor) or id(attr_val) not in self._names:
            return attr_val
        name = self._names[id(attr_val)]
        if name not in parameter_proxy_cache:
            make = lambda node: TensorProxy(node, self, attr_val)  # noqa: E731
            proxy = self.create_proxy("get_attr", name, (), {}, proxy_factory_fn=make)
            parameter_proxy_cache[name] = proxy
        return parameter_proxy_cache[name]


_HARMLESS = frozenset(
    {
        "__annotations__",
        "__doc__",
        "__firstlineno__",
        "__init__",
        "__module__",
        "__parameters__",
        "__qualname__",
        "__repr__",
        "__static_attributes__",
        "__type_params__",
        "extra_repr",
        "reset_parameters",
    }
)


def plain_base(module: nn.Module) -> type[nn.Module] | None:
    """The `torch.nn` class that a subclass computes exactly as, or `None`.

    A subclass qualifies if it defines only constructors and descriptions; a
    property named `weight` (a parametrization) or an overridden `forward` does not.
    """
    for kind in type(module).__mro__:
        if getattr(nn, kind.__name__, None) is kind:
            return None if kind in {nn.Module, nn.Sequential, nn.ModuleList} else kind
        if not _HARMLESS.issuperset(vars(kind)):
            return None
    return None


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module runs code besides the `forward` of its class."""
    hooks = (
        module._forward_hooks,  # noqa: SLF001 - torch has no public way to ask
        module._forward_pre_hooks,  # noqa: SLF001
        module._backward_hooks,  # noqa: SLF001
        module._backward_pre_hooks,  # noqa: SLF001
    )
    return any(hooks) or "forward" in vars(module)


def trace(
    model: nn.Module,
    omitted: Collection[str] = (),
    kinds: Mapping[str, type] = MappingProxyType({}),
) -> fx.Graph:
    """The graph of `model`, as `torch.fx` traces it; of a graph module, the one it has.

    Args:
        model: What to trace.
        omitted: Inputs that take their default value.
        kinds: Types of the example inputs, by name.

    Raises:
        CaptureError: The model's Python code depends on tensor values or shapes.
    """
    if isinstance(model, fx.GraphModule):
        return model.graph
    try:
        return Tracer(omitted, kinds).trace(model)
    except CaptureError:
        raise
    except Exception as error:
        how = f"{type(model).__name__} cannot be traced"
        advice = (
            "give example inputs, with which torch.export is tried too, capture a submodule "
            "without this line, or move the decision that depends on the input out of forward()"
        )
        raise stopped(model, how, error, advice) from error


class _CallTracer(Tracer):
    """Traces one call whose node arguments become placeholders and whose others are constants."""

    def __init__(self, inputs: tuple[fx.Node, ...], call: tuple[Any, Any]) -> None:
        super().__init__()
        self._inputs = inputs
        self._call = call

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: FBT001 - torch's signature
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the inputs, and a function that fills them into the call."""
        proxies: dict[fx.Node, Any] = {
            node: self.create_proxy("placeholder", f"input_{index}", (), {})
            for index, node in enumerate(self._inputs)
        }
        args, kwargs = fx.node.map_arg(self._call, proxies.__getitem__)
        return lambda root, *rest: root_fn(root, *rest, **kwargs), [self.root, *args]


def trace_call(
    module: nn.Module,
    inputs: tuple[fx.Node, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> fx.Graph:
    """The graph of `module(*args, **kwargs)`, one placeholder per node of `inputs` in order."""
    return _CallTracer(inputs, (args, dict(kwargs))).trace(module)
