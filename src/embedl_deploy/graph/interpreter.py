"""Running a graph node by node."""

from typing import Any

from torch import fx


class Interpreter(fx.Interpreter):
    """Runs a graph as its generated code does: a function may change a list that it is given."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return plain(args), plain(kwargs)


def plain(tree: Any) -> Any:
    """Arguments as a call gets them: torch.fx stores lists and dicts that cannot be changed."""
    match tree:
        case list():
            return [plain(one) for one in tree]
        case dict():
            return {key: plain(one) for key, one in tree.items()}
        case tuple() if type(tree) is tuple:
            return tuple(plain(one) for one in tree)
    return tree
