"""Which tensors get a stub, and which declared points get none and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from embedl_deploy.graph.fixed import fixed
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.modules.base import by_name
from embedl_deploy.quantize.config import Attention, QuantConfig
from embedl_deploy.quantize.placing.copying import joined_poolings, padded, sources
from embedl_deploy.quantize.skip import Skipped

CONSTANT = "its inputs are the same for every input of the model"
"""Why a layer is not quantized whose result export computes and stores."""
_DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the base of all dropouts


@dataclass(frozen=True)
class Use:
    """A tensor at a Q/DQ point: an argument of a call by name, or the call's own result.

    Where padding, or poolings and their concatenation, lie between tensor and call, `readers` are
    those of them that read the stub.
    """

    tensor: fx.Node
    call: fx.Node
    point: QDQPoint
    argument: str | None
    readers: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Site:
    """A call of a fused module, the points to quantize there, and why the others are not."""

    call: fx.Node
    module: FusedModule
    points: tuple[QDQPoint, ...]
    left: tuple[QDQPoint, ...] = ()
    reason: str = ""

    @property
    def path(self) -> str:
        """The module's path."""
        return str(self.call.target)


def find_sites(
    model: fx.GraphModule, config: QuantConfig, skipped: Mapping[str, Skipped]
) -> list[Site]:
    """All calls of fused modules that declare points, or say why not, in graph order."""
    modules = dict(model.named_modules())
    returned, constant = _returned(model, modules), fixed(model)
    sites = []
    for node in model.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FusedModule) and (module.qdq_points or module.kept_float):
            points = _points(module, config)
            site = Site(node, module, points)
            reason = (
                CONSTANT
                if node in constant
                else _why_not(site, config.attention, skipped[site.path], returned)
            )
            sites.append(
                replace(site, points=(), left=site.points, reason=reason) if reason else site
            )
    return sites


def _points(module: FusedModule, config: QuantConfig) -> tuple[QDQPoint, ...]:
    if config.attention == "full" and module.attends is not None:
        more = (*module.inner_points, QDQPoint.OUTPUT)
        return tuple(dict.fromkeys((*module.qdq_points, *more)))
    left = () if config.residual else (QDQPoint.RESIDUAL_INPUT,)
    return tuple(one for one in module.qdq_points if one not in left)


def _why_not(site: Site, attention: Attention, skipped: Skipped, returned: set[fx.Node]) -> str:
    """Why a call gets no stub; empty where it gets them.

    A layer that declares its result has no weights: with int8 inputs it needs an int8 result,
    and a result of the model is not rounded, so it gets neither.
    """
    if site.module.kept_float:
        return site.module.kept_float
    if skipped.activations:
        return f"skipped by {skipped.activations}"
    if attention == "none" and site.module.attends is not None:
        return "attention is not quantized"
    if QDQPoint.OUTPUT in site.points and site.call in returned:
        return "its result is one of the model"
    return ""


def _returned(model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """What the model returns, and what that only copies."""
    (output,) = (node for node in model.graph.nodes if node.op == "output")
    results = output.all_input_nodes
    return {*results, *(source for one in results for source in sources(one, modules))}


def uses_of(site: Site) -> Iterator[Use]:
    """The tensors at the points of a call, without those inside the module."""
    module, call = site.module, site.call
    given = by_name(module, call.args, call.kwargs)
    for point in site.points:
        if point is QDQPoint.OUTPUT:
            yield Use(call, call, point, None)
        for name in module.quantized_arguments(point):
            if isinstance(tensor := given.get(name), fx.Node):
                yield Use(tensor, call, point, name)


def without_repeats(uses: Sequence[Use], modules: Mapping[str, nn.Module]) -> list[Use]:
    """Let consumers after a dropout share the stub before it.

    A compiler sees no dropout: there would be two pairs in a row.
    """
    results = {use.tensor for use in uses if use.argument is None}
    kept = []
    for use in uses:
        source = _before_dropout(use.tensor, modules)
        repeated = source is not use.tensor and source in results
        kept.append(replace(use, tensor=source, argument=None) if repeated else use)
    return kept


def before_copies(
    uses: Sequence[Use], modules: Mapping[str, nn.Module], *, pooled: bool
) -> list[Use]:
    """Round what is copied in place of the copy, where nobody reads that in floating point.

    It has the same values. A pair between padding and a convolution keeps a compiler from padding
    in the kernel; with one after a concatenation of poolings it pools once more for each of them.

    Args:
        uses: All there are.
        modules: By path.
        pooled: Whether to do so before poolings, not at padding alone.
    """
    calls: dict[fx.Node, set[fx.Node]] = {}
    for use in uses:
        calls.setdefault(use.tensor, set()).add(use.call)
    places = {
        tensor: _before_copying(tensor, modules, pooled=pooled)
        for tensor, its in calls.items()
        if set(tensor.users) == its
    }
    return [
        replace(use, tensor=place[0], readers=place[1])
        if (place := places.get(use.tensor))
        else use
        for use in uses
    ]


def _before_copying(
    tensor: fx.Node, modules: Mapping[str, nn.Module], *, pooled: bool
) -> tuple[fx.Node, tuple[fx.Node, ...]] | None:
    """What a tensor is copied from, and who reads that; `None` where it stays."""
    inner = padded(tensor, modules)
    if inner is not None:
        return inner, (tensor,)
    return joined_poolings(tensor, modules) if pooled else None


def _before_dropout(tensor: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    while isinstance(modules.get(str(tensor.target)), _DROPOUT):
        (tensor,) = tensor.all_input_nodes
    return tensor


def groups_of(
    tensors: Sequence[fx.Node], modules: Mapping[str, nn.Module]
) -> dict[fx.Node, fx.Node]:
    """The first tensor of each tensor's group, which share one scale.

    A tensor belongs with those of the others from which only copying operations lead to it.
    """
    order = {tensor: index for index, tensor in enumerate(tensors)}
    first = {tensor: tensor for tensor in tensors}
    for tensor in tensors:
        for source in sources(tensor, modules):
            if source in first:
                heads = {first[tensor], first[source]}
                head = min(heads, key=order.__getitem__)
                first = {one: head if its in heads else its for one, its in first.items()}
    return first
