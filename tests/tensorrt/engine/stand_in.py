"""A stand-in for the Python package of TensorRT, with the names that are documented and no others.

`run` takes the place of `process.run`, and so the worker calls it in this process. It checks what
it is given, and notes it in `calls`. An engine is the JSON of its layers: one for each kernel that
is predicted, unless `layers` says otherwise.
"""

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from embedl_deploy.tensorrt import Explanation, explain_onnx
from embedl_deploy.tensorrt.engine.process import Events
from embedl_deploy.tensorrt.engine.worker import work

__version__ = "10.13.3.9"

calls: list[tuple[Any, ...]] = []
layers: list[Any] | None = None
errors: list[str] = []
fails: set[str] = set()


def reset(version: str = "10.13.3.9") -> None:
    global __version__, layers
    __version__, layers = version, None
    for one in (calls, errors, fails):
        one.clear()


def run(job: Mapping[str, Any], timeout: float) -> Events:  # noqa: ARG001 - as the real one
    """Do a job in this process."""
    assert job["module"] == "tensorrt"
    events = Events()
    written: Any = json.loads(json.dumps(job))
    work(sys.modules[__name__], written, lambda *event: events.take(*json.loads(json.dumps(event))))
    return events


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ILogger:
    def log(self, severity: object, message: str) -> None:
        raise NotImplementedError


class Input:
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @shape.setter
    def shape(self, sizes: Sequence[int]) -> None:
        calls.append(("shape", self.name, tuple(sizes)))


class Network:
    path = ""
    num_inputs = 1

    def get_input(self, index: int) -> Input:
        assert index == 0
        return Input("x")


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return ""


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._network = network

    def parse_from_file(self, model: str) -> bool:
        self._network.path = model
        return not errors

    @property
    def num_errors(self) -> int:
        return len(errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(errors[index])


class OptimizationProfile:
    def set_shape(
        self,
        input: str,  # noqa: A002 - these are the documented names
        min: Sequence[int],  # noqa: A002
        opt: Sequence[int],
        max: Sequence[int],  # noqa: A002
    ) -> None:
        calls.append(("set_shape", input, tuple(min), tuple(opt), tuple(max)))


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> memoryview:
        return memoryview(self._content + b"+")


class BuilderConfig:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        calls.append(("set_memory_pool_limit", pool, pool_size))

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        assert isinstance(profile, OptimizationProfile)
        calls.append(("add_optimization_profile",))
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        self._cache = cache
        calls.append(("set_timing_cache", ignore_mismatch))
        return True

    def get_timing_cache(self) -> TimingCache:
        return self._cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)

    def create_network(self, flags: int = 0) -> Network:
        calls.append(("create_network", flags))
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(
        self, network: Network, config: BuilderConfig
    ) -> memoryview | None:
        detailed = config.profiling_verbosity is ProfilingVerbosity.DETAILED
        calls.append(("build_serialized_network", detailed))
        said = as_predicted(explain_onnx(network.path)) if layers is None else layers
        plan = json.dumps({"Layers": said, "Bindings": []}).encode()
        return None if "build" in fails else memoryview(plan)


class EngineInspector:
    def __init__(self, plan: bytes) -> None:
        self._plan = plan

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        assert format is LayerInformationFormat.JSON
        return self._plan.decode()


class Engine:
    def __init__(self, plan: bytes) -> None:
        self._plan = plan

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)

    def deserialize_cuda_engine(self, serialized_engine: memoryview) -> Engine | None:
        return None if "runtime" in fails else Engine(bytes(serialized_engine))


# --- layers -------------------------------------------------------------------------------------

FORMATS = {
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "FP16": "Row major linear FP16 format",
    "FP32": "Row major linear FP32",
}


def layer(nodes: Sequence[str], dtype: str, kind: str = "CaskConvolution") -> dict[str, Any]:
    """An entry as it is documented for detailed verbosity."""
    tensor = {"Name": "t", "Dimensions": [1, 16, 8, 8], "Format/Datatype": FORMATS[dtype]}
    return {
        "Name": " + ".join(nodes),
        "LayerType": kind,
        "Inputs": [tensor],
        "Outputs": [tensor],
        "TacticName": "sm80_xmma",
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in nodes),
    }


def as_predicted(explanation: Explanation) -> list[dict[str, Any]]:
    """One layer for each predicted kernel."""
    return [layer(one.nodes, one.dtype) for one in explanation.kernels]
