"""The canonical graph: one `torch.fx` form for every spelling of a model."""

from embedl_deploy.graph.capturing import capture

__all__ = ["capture"]
