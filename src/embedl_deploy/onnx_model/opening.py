"""A file that is open: read once, and a graph with types and shapes as soon as one asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model.custom import inferred
from embedl_deploy.onnx_model.dtypes import infer_types
from embedl_deploy.onnx_model.graph import Graph
from embedl_deploy.onnx_model.inference import with_shapes
from embedl_deploy.onnx_model.loading import path_of, read_onnx
from embedl_deploy.onnx_model.shapes import Shapes, fix_shapes
from embedl_deploy.onnx_model.soundness import put_in_order
from embedl_deploy.onnx_model.view import View

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """An ONNX file that several functions look at.

    Attributes:
        path: Where it is.
        model: What is in it, without large weights.
        assumed: What was assumed of sizes that it leaves open, in words.
    """

    path: Path
    model: "ModelProto" = field(repr=False)
    assumed: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: "str | Path | OnnxFile") -> "OnnxFile":
        """Read a file; one that is open is given back as it is.

        Raises:
            CheckError: It cannot be read, or is no ONNX.
            MissingExtraError: The package onnx is not installed.
        """
        if isinstance(path, OnnxFile):
            return path
        place = path_of(path)
        return cls(place, read_onnx(place))

    @cached_property
    def view(self) -> View:
        """Its graph, indexed.

        Raises:
            CheckError: It is no sound graph.
        """
        with self.judged():
            return View(graph_of(self.model, self.path.parent))

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Name the file in an error on what is in it."""
        try:
            yield
        except CheckError as error:
            raise CheckError(f"'{self.path}' is not sound: {error}") from None

    def with_shapes(self, given: Shapes) -> "OnnxFile":
        """The file with inputs of given shapes, and of a batch of 1 where it is left open.

        Raises:
            CheckError: A name is no input, or a shape contradicts the file.
        """
        from onnx import ModelProto

        fixed = ModelProto()
        fixed.CopyFrom(self.model)
        assumed = fix_shapes(fixed.graph, given)
        same = not assumed and fixed.graph.input == self.model.graph.input
        return self if same else OnnxFile(self.path, fixed, assumed)


def graph_of(model: "ModelProto", folder: Path) -> Graph:
    """A file as a graph with types and shapes, functions written out.

    Raises:
        CheckError: It is no sound graph.
    """
    from onnx import inliner

    put_in_order(model.graph)
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = Graph(inferred(model, with_shapes), folder)
    infer_types(graph)
    return graph
