"""What holds between processes: the same bytes, and a disk that fills up."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import fx

from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import quantize
from tests.export.cases import CASES

ROOT = Path(__file__).parents[2]

SCRIPT = """
import signal, resource, sys
from pathlib import Path
import torch
from embedl_deploy.cli.torchvision_ops import import_torchvision; import_torchvision()
from embedl_deploy.errors import ExportError
from tests.export.test_processes import digest, export, made

torch.manual_seed(0)
model, path = made(), Path(sys.argv[1])
print(digest(export(model, path)))
path.write_bytes(b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    export(model, path)
except ExportError as error:
    print(error)
"""


def made() -> fx.GraphModule:
    """A quantized model."""
    case = CASES["residual"]
    return quantize(transform(case.make().eval(), case.args()), case.batches())


def export(model: fx.GraphModule, path: Path) -> Path:
    return export_onnx(
        model, CASES["residual"].args(), path, precision="float16", keep_float32=["short"]
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(path: Path) -> list[str]:
    """The lines that the script prints, under another hash seed than this process has."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        (sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)),
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()


def test_two_processes_write_the_same_bytes_and_a_full_disk_leaves_the_old_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    torch.manual_seed(0)
    here = digest(export(made(), path))
    there, said = run(path)
    assert there == here
    assert said.endswith(f"'{path}': File too large")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
