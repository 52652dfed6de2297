"""What holds between processes: the same bytes, and a disk that fills up."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import hashlib, resource, signal, sys
from pathlib import Path
import torch
from embedl_deploy.cli.torchvision_ops import import_torchvision; import_torchvision()
from embedl_deploy import transform
from embedl_deploy.errors import ExportError
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import quantize
from tests.export.cases import CASES

torch.manual_seed(0)
case, path = CASES["residual"], Path(sys.argv[1])
model = quantize(transform(case.make().eval(), case.args()), case.batches())
options = {"precision": "float16", "keep_float32": ["short"]}
export_onnx(model, case.args(), path, **options)
print(hashlib.sha256(path.read_bytes()).hexdigest())
path.write_bytes(b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    export_onnx(model, case.args(), path, **options)
except ExportError as error:
    print(error)
"""


def run(path: Path, seed: int) -> list[str]:
    """The lines that the script prints, under a hash seed of its own."""
    done = subprocess.run(
        (sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)),
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
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
    (one, said), (other, _) = run(path, 1), run(path, 2)
    assert one == other
    assert said.endswith(f"'{path}': File too large")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
