"""GPUs by name: their compute capability, and the peaks that NVIDIA publishes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from embedl_deploy.errors import BuildError


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU, dense, as its maker publishes them.

    Attributes:
        name: Such as rtx4090.
        capability: Such as SM89.
        tera: Operations a second of its fastest units, in 10¹², by type; a multiply-accumulate is
            two. FP16 where sums are FP16 too.
        bandwidth: Of its memory, in 10⁹ bytes a second.
        source: Where the figures are published.
    """

    name: str
    capability: str
    tera: Mapping[str, float]
    bandwidth: float
    source: str


def _gpu(name: str, capability: str, tera: str, bandwidth: float, source: str) -> Gpu:
    """With 10¹² operations a second of FP32, FP16, INT8 and, where it has that, FP8."""
    single, half, *eight = map(float, tera.split())
    rates = {"FP32": single, "FP16": half, "BF16": half}
    rates |= dict(zip(("INT8", "FP8"), eight, strict=False))
    return Gpu(name, capability, MappingProxyType(rates), bandwidth, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4", "SM75", "8.1 65 130", 320, "NVIDIA T4 datasheet"),
        _gpu("a100", "SM80", "19.5 312 624", 1555, "NVIDIA A100 whitepaper, 40 GB"),
        _gpu("rtx3090", "SM86", "35.6 142 284", 936, "NVIDIA Ampere GA102 whitepaper"),
        _gpu("a10", "SM86", "31.2 125 250", 600, "NVIDIA A10 datasheet"),
        _gpu("rtx4090", "SM89", "82.6 330.3 660.6 660.6", 1008, "NVIDIA Ada whitepaper"),
        _gpu("l4", "SM89", "30.3 121 242.5 242.5", 300, "NVIDIA L4 datasheet"),
        _gpu("l40s", "SM89", "91.6 362 733 733", 864, "NVIDIA L40S datasheet"),
        _gpu("rtx5090", "SM120", "104.8 419 838 838", 1792, "NVIDIA RTX Blackwell whitepaper"),
    )
}
"""By name. The first of a compute capability stands for it where only that is named."""

_OTHERS = {
    "a2": "SM86",
    "a30": "SM80",
    "a40": "SM86",
    "a6000": "SM86",
    "l40": "SM89",
    "gb10": "SM121",
    "orin": "SM87",
    "xavier": "SM72",
    "thor": "SM110",
    "v100": "SM70",
    "h100": "SM90",
    "h200": "SM90",
    "b200": "SM100",
}
_GEFORCE = {"20": "SM75", "30": "SM86", "40": "SM89", "50": "SM120"}


def find_gpu(name: str) -> tuple[str, Gpu | None]:
    """The compute capability of a GPU, and its peaks where they are known here.

    Args:
        name: Of a GPU, such as `l4` or `RTX 4090`, or a compute capability, such as `sm89`.

    Raises:
        BuildError: It is unknown.
    """
    key = re.sub(r"[\s_-]|nvidia|geforce|jetson", "", name.lower())
    if key in GPUS:
        return GPUS[key].capability, GPUS[key]
    found = re.fullmatch(r"rtx(20|30|40|50)\d0(ti|super|tisuper|d)?", key)
    capability = _OTHERS.get(key, _GEFORCE[found[1]] if found else "")
    if not capability and re.fullmatch(r"sm\d{2,3}", key):
        capability = key.upper()
    if not capability:
        names = ", ".join((*GPUS, *_OTHERS))
        raise BuildError(
            f"the GPU '{name}' is unknown; known are {names}, GeForce as rtx4060, and compute "
            "capabilities as sm89"
        )
    if key.startswith("sm"):
        known = (gpu for gpu in GPUS.values() if gpu.capability == capability)
        return capability, next(known, None)
    return capability, None
