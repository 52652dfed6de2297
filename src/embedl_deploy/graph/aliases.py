"""Which values of a traced graph share memory, so that in-place writes can be taken out safely."""

from torch import fx, nn

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.tracer import RANDOM_DEPTH

VIEWS = frozenset(
    {
        *("as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "bfloat16", "broadcast_tensors"),
        *("broadcast_to", "chunk", "contiguous", "cpu", "cuda", "detach", "diagonal", "double"),
        *("expand", "expand_as", "flatten", "float", "getitem", "half", "hsplit"),
        *("imag", "moveaxis", "movedim", "narrow", "permute", "positive", "ravel", "real"),
        *("requires_grad_", "reshape", "reshape_as", "select", "split", "split_with_sizes"),
        *("squeeze", "swapaxes", "swapdims", "t", "tensor_split", "to", "transpose", "type"),
        *("type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as", "vsplit"),
        # In eval mode these give their input back.
        *("alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d"),
        *("feature_alpha_dropout", "feature_dropout", "stochastic_depth", "drop_path"),
    }
)
"""Names of functions and methods whose result may share memory with their first argument."""

VIEW_ATTRIBUTES = frozenset({"H", "T", "data", "imag", "mH", "mT", "real"})

VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)  # noqa: SLF001 - the base of all dropouts, which pass their input on in eval mode


class Aliases:
    """Groups of nodes that may share memory, and within them those that are one tensor."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        self._last_use = {
            node: max((self._order[user] for user in node.users), default=-1)
            for node in graph.nodes
        }
        self._groups: dict[fx.Node, set[fx.Node]] = {}
        self._same: dict[fx.Node, set[fx.Node]] = {}
        modules = dict(root.named_modules(remove_duplicate=False))
        for node in graph.nodes:
            if _is_view(node, modules) and node.all_input_nodes:
                _join(self._groups, node, node.all_input_nodes[0])
            if node.op == "call_module" and type(modules[str(node.target)]) is nn.Identity:
                _join(self._same, node, node.all_input_nodes[0])

    def write(self, node: fx.Node, written: fx.Node) -> tuple[fx.Node, ...]:
        """Take note that the in-place operation `node` writes to `written`, and returns it.

        Returns:
            Every node that is the tensor that was written, `node` among them.

        Raises:
            CaptureError: The tensor is visible in another form afterwards.
        """
        self._check(node, written)
        _join(self._groups, node, written)
        _join(self._same, node, written)
        same = tuple(self._same[written])
        for groups in (self._groups, self._same):
            self._forget_spent(groups, groups[written], node)
        return same

    def _forget_spent(
        self, groups: dict[fx.Node, set[fx.Node]], group: set[fx.Node], write: fx.Node
    ) -> None:
        """Drop what nothing reads after a write: a chain of writes then takes linear time."""
        position = self._order[write]
        for node in [one for one in group if self._last_use[one] <= position]:
            group.discard(node)
            groups.pop(node, None)

    def _check(self, node: fx.Node, written: fx.Node) -> None:
        if written.op == "get_attr":
            raise CaptureError(
                f"the model writes to its own tensor '{written.target}' in forward() ('{node}'); "
                "keep such state outside the captured part"
            )
        same = self._same.get(written, {written})
        for other in self._groups.get(written, set()) - same:
            if other is not node and self._is_seen_after(other, node):
                raise CaptureError(
                    f"the in-place operation '{node}' writes to '{written}', whose memory "
                    f"'{other}' shares and uses later; use the out-of-place form of it"
                )

    def _is_seen_after(self, node: fx.Node, write: fx.Node) -> bool:
        """Whether a value is from before a write and used after it."""
        return self._order[node] < self._order[write] < self._last_use[node]


def _join(groups: dict[fx.Node, set[fx.Node]], one: fx.Node, other: fx.Node) -> None:
    """Make the groups of two nodes one."""
    group = groups.setdefault(other, {other})
    for member in groups.get(one, {one}) - group:
        group.add(member)
        groups[member] = group


def _is_view(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    match node.op:
        case "call_module":
            module = modules[str(node.target)]
            return isinstance(module, VIEW_MODULES) or type(module).__name__ in RANDOM_DEPTH
        case "call_method":
            return node.target in VIEWS
        case "call_function" if node.target is getattr:
            return node.args[1] in VIEW_ATTRIBUTES
        case "call_function":
            return getattr(node.target, "__name__", "") in VIEWS
    return False
