"""Calibration data comes in batches, again and again; whatever cannot be used is named."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from embedl_deploy.cli.data import Batches, Normalization, SizedBatches, load_data
from embedl_deploy.errors import LoadError, MissingExtraError

USER_CODE = """
import torch
from torch.utils.data import DataLoader, IterableDataset

calls = []

def many():
    return [torch.full((2, 3), float(i)) for i in range(3)]

def stream():
    calls.append(1)
    return (torch.full((2, 3), float(i)) for i in range(3))

ready = many()
def pairs(): return [[torch.ones(2, 3), torch.zeros(2)]]
def named(): return [{"a": torch.ones(4, 3), "b": torch.zeros(4)}]
def nothing(): return iter(())
def number(): return 3
def one_tensor(): return torch.ones(2, 3)
def numbers(): return [1, 2]
def texts(): return [("a", torch.ones(1))]
def hollow(): return [()]
def broken(): raise ValueError("no disk")

class Endless(IterableDataset):
    def __iter__(self): return iter([torch.ones(3), torch.ones(3)])
    def __len__(self): raise TypeError("who knows")

def loader(): return DataLoader(Endless(), batch_size=2)
def sized_loader(): return DataLoader(torch.ones(5, 3), batch_size=2)
"""


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "user_data.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("user_data", None)


def tensors(batches: Batches) -> list[Tensor]:
    """Each batch as a single tensor; reading twice gives the same."""
    first, second = ([b for b in batches if isinstance(b, Tensor)] for _ in range(2))
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(batches, SizedBatches):
        assert len(batches) == len(first)
    return first


def paint(path: Path, color: object = (255, 0, 0), size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "RGB" if isinstance(color, tuple) else "L"
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]
    return path


# --- images ------------------------------------------------------------------------------------


def test_images_are_found_in_order_and_batched(tmp_path: Path) -> None:
    for index, name in enumerate(["b/2.PNG", "a/1.png", "c.bmp"]):
        paint(tmp_path / name, (index * 51, 0, 0))
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    batches = load_data(tmp_path, shape=(3, 8, 8), batch_size=2, normalization=None)
    first, last = tensors(batches)
    assert first.shape == (2, 3, 8, 8)
    assert first.dtype == torch.float32
    assert [*first[:, 0, 0, 0].tolist(), last[0, 0, 0, 0].item()] == pytest.approx([0.2, 0, 0.4])


def test_an_image_is_scaled_and_cut_at_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 10), (255, 255, 255))
    image.paste((0, 0, 0), (15, 0, 25, 10))  # the middle square is black
    image.save(tmp_path / "wide.png")
    (batch,) = tensors(load_data(tmp_path, shape=(3, 5, 5), normalization=None))
    assert batch[0, :, 1:-1, 1:-1].max() == 0


def test_normalization_is_that_of_imagenet_unless_told_otherwise(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", (255, 0, 255))
    (usual,) = tensors(load_data(tmp_path, shape=(3, 4, 4)))
    assert usual[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]
    )
    own = Normalization(mean=(0.5,), std=(0.25,))
    (other,) = tensors(load_data(tmp_path, shape=(3, 4, 4), normalization=own))
    assert other[0, :, 0, 0].tolist() == [2, -2, 2]


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 255)
    paint(tmp_path / "b.png", (255, 255, 255))
    (batch,) = tensors(load_data(tmp_path, shape=(1, 4, 6)))
    assert batch.shape == (2, 1, 4, 6)
    assert batch.flatten().tolist() == pytest.approx([(1 - 0.449) / 0.226] * 48)


def test_a_limit_takes_images_from_the_whole_folder(tmp_path: Path) -> None:
    for index in range(10):
        paint(tmp_path / f"{index}.png", (index * 20, 0, 0))
    batches = load_data(tmp_path, shape=(3, 2, 2), batch_size=2, limit=3, normalization=None)
    assert isinstance(batches, SizedBatches)
    assert len(batches) == 2
    values = torch.cat(tensors(batches))[:, 0, 0, 0] * 255 / 20
    assert values.tolist() == pytest.approx([0, 3, 6])


def test_images_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not an image at all")
    batches = iter(load_data(tmp_path, shape=(3, 4, 4), batch_size=1))
    next(batches)
    with pytest.raises(LoadError, match=r"b\.png' is not an image"):
        next(batches)


def test_a_cut_off_image_is_named(tmp_path: Path) -> None:
    path = paint(tmp_path / "cut.bmp", size=(64, 64))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(LoadError, match=r"cut\.bmp' is not an image"):
        list(load_data(tmp_path, shape=(3, 4, 4)))


def test_deep_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(LoadError, match=r"deep\.png' has more than 8 bits"):
        list(load_data(tmp_path, shape=(1, 4, 4)))


@pytest.mark.parametrize("shape", [None, (3, 8), (4, 8, 8), (3, 0, 8)])
def test_a_shape_that_no_image_has_is_refused(
    tmp_path: Path, shape: tuple[int, ...] | None
) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(LoadError, match="images need a shape of"):
        load_data(tmp_path, shape=shape)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (1.0,), "mean needs one value or three, and has 2"),
        ((0.5,), (), "std needs one value or three, and has 0"),
        ((0.5,), (0.0,), "std must be above 0"),
    ],
)
def test_a_normalization_that_can_not_be_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        Normalization(mean, std)


def test_missing_pillow_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"'PIL'.*embedl_deploy\[cli\]"):
        list(load_data(tmp_path, shape=(3, 4, 4)))


# --- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_array_is_the_input(tmp_path: Path, save: object) -> None:
    data = np.arange(5 * 6, dtype=np.float64).reshape(5, 2, 3)
    save(tmp_path / "d.npz", data)  # type: ignore[operator]
    batches = tensors(load_data(tmp_path / "d.npz", shape=(2, 3), batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), torch.from_numpy(data).float())


def test_several_arrays_are_inputs_by_name(tmp_path: Path) -> None:
    ids, mask = np.arange(12, dtype=">i4").reshape(4, 3), np.eye(4, 3, dtype=bool)
    np.savez(tmp_path / "d.npz", ids=ids, mask=mask)
    (batch,) = load_data(tmp_path / "d.npz", limit=3)
    assert isinstance(batch, dict)
    assert list(batch) == ["ids", "mask"]
    assert torch.equal(batch["ids"], torch.arange(9).view(3, 3))
    assert torch.equal(batch["mask"], torch.eye(3, dtype=torch.bool))


def test_an_array_is_never_held_whole(tmp_path: Path) -> None:
    import tracemalloc

    np.savez_compressed(tmp_path / "d.npz", np.zeros((64, 64, 1024), dtype=np.float32))
    tracemalloc.start()
    assert sum(len(batch) for batch in load_data(tmp_path / "d.npz", batch_size=1)) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20  # the array has 16 MiB, a batch 256 KiB


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no arrays"),
        ({"x": np.zeros((2, 3, 4, 4))}, r"shape \(3, 4, 4\), and the model takes \(3, 8, 8\)"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((3, 3))}, r"different numbers.*'x': 2, 'y': 3"),
        ({"x": np.array([None, {}])}, "holds Python objects, which are never loaded"),
        ({"x": np.zeros((2, 3, 8, 8), dtype=np.uint8)}, "is of uint8: save what the model takes"),
        ({"x": np.array(["a", "b"])}, "is of <U1"),
        ({"x": np.zeros(())}, r"has shape \(\): the first dimension counts samples"),
        ({"x": np.zeros((0, 3, 8, 8))}, "has shape"),
        ({"x": np.zeros((3, 2)).T}, "is in Fortran order"),
    ],
    ids=["none", "shape", "lengths", "objects", "bytes", "text", "scalar", "empty", "fortran"],
)
def test_arrays_that_can_not_be_inputs_are_refused(
    tmp_path: Path,
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    message: str,
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(LoadError, match=message):
        load_data(tmp_path / "d.npz", shape=(3, 8, 8))


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_text("text")
    with pytest.raises(LoadError, match=r"d\.npz' .*numpy\.savez"):
        load_data(tmp_path / "d.npz")
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x.npy", "no header")
    with pytest.raises(LoadError, match=r"e\.npz' .*be read"):
        load_data(tmp_path / "e.npz")


def test_an_array_that_ends_early_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=np.ones((4, 3)))
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("x.npy", content[:-8])
    batches = load_data(tmp_path / "cut.npz", batch_size=2)
    with pytest.raises(LoadError, match=r"cut\.npz' .*to its end"):
        list(batches)


# --- code --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("name", ["many", "stream", "ready"])
def test_a_callable_gives_batches_again_and_again(name: str) -> None:
    batches = tensors(load_data(f"user_data:{name}", shape=(3,)))
    assert [batch[0, 0].item() for batch in batches] == [0, 1, 2]


@pytest.mark.usefixtures("user_code")
def test_a_generator_is_made_once_for_each_pass() -> None:
    batches = load_data("user_data:stream")
    assert [len(list(batches)) for _ in range(3)] == [3, 3, 3]
    assert len(sys.modules["user_data"].calls) == 3


@pytest.mark.usefixtures("user_code")
def test_the_number_of_batches_is_known_where_it_can_be() -> None:
    for name, count in {"many": 3, "sized_loader": 3}.items():
        batches = load_data(f"user_data:{name}")
        assert isinstance(batches, SizedBatches)
        assert len(batches) == count
    for name in ("stream", "loader"):
        assert not isinstance(load_data(f"user_data:{name}"), SizedBatches)
    assert not isinstance(load_data("user_data:many", limit=3), SizedBatches)


@pytest.mark.usefixtures("user_code")
def test_a_limit_cuts_the_last_batch() -> None:
    assert [len(batch) for batch in tensors(load_data("user_data:many", limit=3))] == [2, 1]
    assert [len(batch) for batch in tensors(load_data("user_data:many", limit=4))] == [2, 2]
    (named,) = load_data("user_data:named", limit=3)
    assert isinstance(named, dict)
    assert [len(tensor) for tensor in named.values()] == [3, 3]


@pytest.mark.usefixtures("user_code")
def test_lists_in_a_batch_become_tuples() -> None:
    for limit in (None, 1):
        (batch,) = load_data("user_data:pairs", limit=limit)
        assert isinstance(batch, tuple)
        assert [len(tensor) for tensor in batch] == [limit or 2] * 2


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "gives no samples"),
        ("number", "gives an object of type int: it must give an iterable of batches"),
        ("one_tensor", "gives an object of type Tensor: it must give an iterable"),
        ("numbers", "batch 0 of 'user_data:numbers' is int of int: give"),
        ("texts", "batch 0 of .* is tuple of str, Tensor"),
        ("hollow", "batch 0 of .* is tuple of nothing"),
        ("broken", "failed when called: ValueError: no disk"),
        ("many", r"batch 0 .* has shape \(2, 3\), and the model takes \(N, 3, 8, 8\)"),
        ("man", "has no 'man'; did you mean many"),
    ],
)
def test_a_callable_that_gives_no_batches_is_explained(name: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        list(load_data(f"user_data:{name}", shape=(3, 8, 8)))


# --- sources -----------------------------------------------------------------------------------


def test_a_source_that_is_not_there_is_explained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "gone": "does not exist: name a folder of images",
        "gone.npz": "there is no data file",
        "notes.txt": "is no kind of data known",
        "empty": "has no images",
    }.items():
        with pytest.raises(LoadError, match=message):
            load_data(tmp_path / name, shape=(3, 8, 8))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": 0}, {"limit": -1}])
def test_counts_below_one_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(LoadError, match="must be at least 1, and is"):
        load_data(
            tmp_path,
            shape=(3, 8, 8),
            batch_size=options.get("batch_size", 1),
            limit=options.get("limit"),
        )
