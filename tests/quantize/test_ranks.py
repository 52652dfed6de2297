"""Two processes that share the data get what one gets that has it all: scales, and training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, fx, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    calibrate,
    freeze_batch_norm,
    insert_qdq,
    quantize,
    smooth,
)

OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMaxObserver,
    "percentile": partial(PercentileObserver, 99.0),
    "mse": MSEObserver,
    "entropy": EntropyObserver,
}


def model(observer: str = "min-max") -> fx.GraphModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    config = QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer], signed=False))
    return insert_qdq(transform(net.eval()), config)


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 20, 20, generator=generator) * (1 + part) for part in range(5)]


def state(model: fx.GraphModule) -> dict[str, Tensor]:
    stubs = [path for path, one in model.named_modules() if isinstance(one, QuantStub)]
    tensors = model.state_dict()
    return {name: one for name, one in tensors.items() if name.rpartition(".")[0] in stubs}


def smoothed_state(parts: list[Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    result = transform(net.eval())
    assert smooth(result, parts).scaled
    return result.model.state_dict()


def message(parts: list[Tensor]) -> str:
    with pytest.raises(CalibrationError) as raised:
        calibrate(model(), parts)
    return str(raised.value)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    own = data()[rank::2]
    found = {name: state(calibrate(model(name), own)) for name in OBSERVERS}
    alone = state(calibrate(model(), data() if rank else []))
    smoothed = smoothed_state(own)
    said = [message([one / 0 for one in own] if rank else own), message([])]
    torch.save((found, alone, smoothed, said), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_scales_of_one(tmp_path: Path) -> None:
    spawn(work, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for found, alone, smoothed, (fault, empty) in results:
        for name in OBSERVERS:
            want = state(calibrate(model(name), data()))
            assert len(want) == 4
            assert found[name] == want
        assert alone == state(calibrate(model(), data()))
        torch.testing.assert_close(smoothed, smoothed_state(data()), rtol=0, atol=0)
        assert "come from the input" in fault
        assert "calibration data is empty" in empty
    assert results[0][3][0].startswith("calibration failed in process 1: CalibrationError: values")


LEARNED = QuantConfig(TensorQuantConfig(scale="learned"), TensorQuantConfig(scale="learned"))


def fitted(rank: int | None) -> fx.GraphModule:
    """A model trained on every second sample of a batch, or without a rank on all of them."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = freeze_batch_norm(quantize(transform(net.eval()), data(), LEARNED)).train()
    called = own if rank is None else DistributedDataParallel(own)
    images, labels = torch.cat(data()[:4]), torch.arange(8) % 4
    part = slice(None) if rank is None else slice(rank, None, 2)
    optimizer = torch.optim.SGD(own.parameters(), 0.02, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(called(images[part]), labels[part]).backward()
        optimizer.step()
    return own


def train(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(fitted(rank).state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns_from_all_data(tmp_path: Path) -> None:
    spawn(train, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = fitted(None).state_dict()
    assert one.keys() == alone.keys()
    for name, want in alone.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], want, rtol=1e-4, atol=1e-5)
