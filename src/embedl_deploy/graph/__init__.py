"""The canonical graph: one `torch.fx` form for every spelling of a model."""

from embedl_deploy.graph.capture import capture

__all__ = ["capture"]
