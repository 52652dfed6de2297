"""Random small files: the operators that exports have, with pairs and quantized weights at random.

Every value has the shape of an image; what reads two takes any two.
"""

import random
import re
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.tensorrt.rules.models import IMAGE, Text

_PLAIN = (
    "Relu({a})",
    "Sigmoid({a})",
    "Tanh({a})",
    "HardSigmoid({a})",
    "HardSwish({a})",
    "LeakyRelu({a})",
    "Elu({a})",
    "Softplus({a})",
    "Gelu({a})",
    "Erf({a})",
    "Exp({a})",
    "Abs({a})",
    "Neg({a})",
    "Softmax<axis=-1>({a})",
    "Transpose<perm=[0,1,3,2]>({a})",
    "Add({a}, {b})",
    "Sub({a}, {b})",
    "Mul({a}, {b})",
    "Add({a}, {c1})",
    "Mul({a}, {c1})",
    "MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>({a})",
    "AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>({a})",
    "LayerNormalization({a}, {c8}, {c8})",
    "MatMul({a}, {b})",
)
_LAYERS: tuple[tuple[str, str], ...] = (
    ("Conv({a}, {w})", "16x16x1x1"),
    ("Conv<pads=[1,1,1,1]>({a}, {w})", "16x16x3x3"),
    ("Conv<pads=[1,1,1,1]>({a}, {w}, {c16})", "16x16x3x3"),
    ("Conv<pads=[2,2,2,2],dilations=[2,2]>({a}, {w})", "16x16x3x3"),
    ("Conv<pads=[1,1,1,1],group=16>({a}, {w})", "16x1x3x3"),
    ("Conv<pads=[1,1,1,1],group=4>({a}, {w})", "16x4x3x3"),
    ("ConvTranspose<pads=[1,1,1,1]>({a}, {w})", "16x16x3x3"),
    ("MatMul({a}, {w})", "8x8"),
)
_SEVERAL: tuple[tuple[str, ...], ...] = (
    ("{y}a = Concat<axis=1>({a}, {b})", "{y} = Conv({y}a, {v})"),
    ("{y}a = GlobalAveragePool({a})", "{y}b = Sigmoid({y}a)", "{y} = Mul({b}, {y}b)"),
    ("{y}a = Reshape({a}, I_1_16_64)", "{y}b = Relu({y}a)", "{y} = Reshape({y}b, I_1_16_8_8)"),
    (
        "{y}a = Transpose<perm=[0,1,3,2]>({a})",
        "{y}b = MatMul({b}, {y}a)",
        "{y}c = Softmax<axis=-1>({y}b)",
        "{y} = MatMul({y}c, {a})",
    ),
    ("{y}a = Sigmoid({a})", "{y} = Mul({a}, {y}a)"),
)


class _Writer:
    """Writes one file."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.half = draw.random() < 0.5
        self.scales = ("h", "h1") if self.half else ("s", "s1", "s2")
        self.kind = "H" if self.half else "B"
        self.lines: list[str] = []
        self.values = ["x"]
        self.pairs: dict[str, str] = {}

    def operand(self) -> str:
        """One of the last values, half the time after a pair, which later readers share."""
        value = self.draw.choice(self.values[-3:])
        if self.draw.random() < 0.4:
            return value
        if value not in self.pairs or self.draw.random() < 0.1:
            pair = f"p{len(self.lines)}"
            self.lines.append(f"{pair} = QDQ({value}, {self.draw.choice(self.scales)})")
            self.pairs[value] = pair
        return self.pairs[value]

    def weight(self, shape: str, axis: int = 0) -> str:
        """Quantized along an axis, as a whole, or not at all."""
        how = self.draw.random()
        if how < 0.25:
            return f"{self.kind}_{shape}"
        name, size = f"w{len(self.lines)}", shape.split("x")[axis]
        by = f"{self.kind}_{size}, W0_{size}" if how < 0.85 else f"{self.scales[0]}, z"
        self.lines.append(f"{name} = DequantizeLinear<axis={axis}>(W_{shape}, {by})")
        return name

    def step(self) -> None:
        a, b = self.operand(), self.operand()
        made = f"y{len(self.lines)}"
        constants = {"c1": f"{self.kind}_1", "c8": f"{self.kind}_8", "c16": f"{self.kind}_16"}
        way = self.draw.random()
        if way < 0.45:
            text, shape = self.draw.choice(_LAYERS)
            axis = 1 if text.startswith(("ConvTranspose", "MatMul")) else 0
            names = {"w": self.weight(shape, axis)}
            texts: tuple[str, ...] = (f"{{y}} = {text}",)
        elif way < 0.8:
            texts, names = (f"{{y}} = {self.draw.choice(_PLAIN)}",), {}
        else:
            texts = self.draw.choice(_SEVERAL)
            concat = "Concat" in texts[0]
            names = {"v": self.weight("16x32x1x1")} if concat else {}
        self.lines += [one.format(a=a, b=b, y=made, **names, **constants) for one in texts]
        self.values.append(made)


def random_text(seed: int) -> Text:
    """A file of one to eight steps; the same for the same seed."""
    writer = _Writer(random.Random(seed))  # noqa: S311 - no secret
    for _ in range(writer.draw.randint(1, 8)):
        writer.step()
    # as a weight of ones would hide an axis, and constants of one an operand
    noise = np.random.default_rng(seed)
    fill: Callable[..., np.ndarray] = noise.uniform
    sizes = {"H_1": 1, "H_8": 8, "H_16": 16, "B_1": 1, "B_8": 8, "B_16": 16}
    dtypes = {"H": np.float16, "B": np.float32}
    arrays = [(k, fill(0.02, 0.2, n).astype(dtypes[k[0]])) for k, n in sizes.items()]
    dtype = TensorProto.FLOAT16 if writer.half else TensorProto.FLOAT
    read = re.findall(r"\w+", " ".join(line.partition(" = ")[2] for line in writer.lines))
    ends = [one for one in (*writer.values, *writer.pairs.values()) if one not in [*read, "x"]]
    lines = "\n".join(writer.lines)
    return Text(lines, (("x", IMAGE),), dtype, arrays=arrays, outputs=ends)
