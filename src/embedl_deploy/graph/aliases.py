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
    """Groups of nodes that may share memory, and the last place where each node is used."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        self._groups: dict[fx.Node, set[fx.Node]] = {}
        modules = dict(root.named_modules(remove_duplicate=False))
        for node in graph.nodes:
            if _is_view(node, modules) and node.all_input_nodes:
                self.join(node, node.all_input_nodes[0])

    def join(self, node: fx.Node, source: fx.Node) -> None:
        """Hold that `node` shares the memory of `source`."""
        group = self._groups.setdefault(source, {source})
        for one in self._groups.get(node, {node}) - group:
            group.add(one)
            self._groups[one] = group

    def check_write(self, node: fx.Node, written: object) -> None:
        """Hold that taking the in-place write `node` out of place changes no other value.

        Raises:
            CaptureError: The written tensor is visible under another name afterwards.
        """
        if not isinstance(written, fx.Node):
            return
        if written.op == "get_attr":
            message = (
                f"the model writes to its own tensor '{written.target}' in forward() ('{node}'); "
                "keep such state outside the captured part"
            )
            raise CaptureError(message)
        for other in self._groups.get(written, ()):
            if other not in {written, node} and self._is_used_after(other, node):
                message = (
                    f"the in-place operation '{node}' writes to '{written}', whose memory "
                    f"'{other}' shares and uses later; use the out-of-place form of it"
                )
                raise CaptureError(message)

    def _is_used_after(self, node: fx.Node, write: fx.Node) -> bool:
        position = self._order[write]
        return any(self._order[user] > position for user in node.users)


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
