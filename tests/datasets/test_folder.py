"""Folders of images: which are found and how they are labelled, every pixel of one by hand, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perdure
from perdure.contract import Refused
from perdure.data import Concat
from perdure.datasets import load
from perdure.datasets.base import stratified
from perdure.datasets.folder import Pictures
from perdure.experiments import doctor
from perdure.streams import build

WIDTH, HEIGHT = 20, 16
COLOURS = {"wren": 40, "crow": 90, "owl": 160, "tit": 220}  # red


def picture(red: int, number: int) -> np.ndarray:
    """(16, 20, 3): one red; the number in green; noise in blue."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 1] = red, number
    image[..., 2] = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH))
    return image


def fill(part: Path, count: int, classes: dict[str, int] = COLOURS) -> None:
    for name, red in classes.items():
        (part / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(red, number)).save(part / name / f"{number:02}.png")


@pytest.fixture
def birds(tmp_path):
    """A root with ten pictures of each of four classes in its folder `birds`."""
    fill(tmp_path / "root" / "birds", 10)
    return tmp_path / "root"


@pytest.fixture
def parts(tmp_path):
    """The same in train/ and val/, six and two of each class."""
    fill(tmp_path / "root" / "birds" / "train", 6)
    fill(tmp_path / "root" / "birds" / "val", 2)
    return tmp_path / "root"


def test_classes_are_numbered_in_sorted_order_and_dealt_as_digits_are(birds):
    base = load("birds@14", birds)
    assert (base.name, base.shape, base.classes) == ("birds@14", (3, 14, 14), 4)
    order = stratified(torch.arange(4).repeat_interleave(10), 0.2, 0)
    for part, rows in zip((base.train, base.exam), order, strict=True):
        x = part.raw(torch.arange(len(part)))
        assert x.dtype == torch.uint8
        assert part.labels.tolist() == (rows // 10).tolist()
        assert x[:, 0, 0, 0].tolist() == [[90, 160, 220, 40][row // 10] for row in rows.tolist()]
        assert x[:, 1, 0, 0].tolist() == (rows % 10).tolist()
    assert base.exam.labels.bincount().tolist() == [2, 2, 2, 2]


def test_train_is_learned_and_val_asked_in_order_of_names(parts):
    base = load("birds@14", parts)
    assert base.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert base.exam.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert base.train.raw(torch.arange(24))[:, 1, 0, 0].tolist() == [*range(6)] * 4


def test_train_alone_is_dealt_and_other_folders_are_no_classes(parts):
    (parts / "birds" / "val").rename(parts / "birds" / "extra")
    base = load("birds", parts)
    assert (base.classes, len(base.train), len(base.exam), base.shape) == (4, 20, 4, (3, 224, 224))


def test_what_is_no_image_or_hidden_is_left_out_and_deeper_images_are_found(parts):
    crow = parts / "birds" / "train" / "crow"
    for name in ("notes.txt", ".07.png", "._00.png"):
        (crow / name).write_bytes(b"no image")
    (parts / "birds" / "train" / ".cache").mkdir()
    (crow / "more" / "yet").mkdir(parents=True)
    (crow / "00.png").rename(crow / "more" / "yet" / "00.PNG")
    base = load("birds@14", parts)
    assert base.train.labels.bincount().tolist() == [6, 6, 6, 6]
    assert base.train.raw(torch.arange(6))[:, 1, 0, 0].tolist() == [1, 2, 3, 4, 5, 0]


def test_where_the_shorter_side_fits_the_centre_is_cut_out_as_it_is(parts):
    """Side 14: the shorter side becomes 16, which it is."""
    x = load("birds@14", parts).train.raw(torch.tensor([8, 2]))
    for image, (red, number) in zip(x, ((160, 2), (90, 2)), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(red, number)[1:15, 3:17])


@pytest.mark.parametrize(("size", "edge"), [(7, 8), (28, 32), (63, 72)])
@pytest.mark.parametrize("tall", [False, True])
def test_pixels_are_those_of_pillow(parts, size, edge, tall):
    path = parts / "birds" / "train" / "crow" / "00.png"
    image = Image.fromarray(picture(90, 0))
    image = image.transpose(Image.Transpose.ROTATE_90) if tall else image
    image.save(path)
    long = edge * WIDTH // HEIGHT
    resized = np.array(image.resize((edge, long) if tall else (long, edge), Image.Resampling.BILINEAR))
    top, left = round((resized.shape[0] - size) / 2), round((resized.shape[1] - size) / 2)
    (x,) = load(f"birds@{size}", parts).train.raw(torch.tensor([0]))
    assert np.array_equal(x.permute(1, 2, 0).numpy(), resized[top : top + size, left : left + size])


GREYS = np.array([[0, 255, 256, 1000], [30_000, 40_000, 65_000, 65_535]], np.uint16).repeat(8, 0).repeat(4, 1)


@pytest.mark.parametrize(("suffix", "kind"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("ppm", "<u2")])
def test_of_16_bits_the_upper_8_are_taken(tmp_path, suffix, kind):
    path = tmp_path / f"grey.{suffix}"
    if suffix == "ppm":
        path.write_bytes(b"P5 16 16 65535\n" + GREYS.astype(">u2").tobytes())
    else:
        Image.fromarray(GREYS.astype(kind)).save(path)
    (x,) = Pictures([str(path)], 14)[np.arange(1)]
    assert np.array_equal(x.numpy(), np.broadcast_to((GREYS // 256)[1:15, 1:15], (3, 14, 14)))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_of_32_bits_a_pixel_are_refused(tmp_path, kind):
    Image.fromarray(GREYS.astype(kind)).save(tmp_path / "grey.tif")
    with pytest.raises(Refused, match=r"grey\.tif cannot be read \(it has 32 bits a pixel, and 8 or 16 are read"):
        Pictures([str(tmp_path / "grey.tif")], 14)[np.arange(1)]


def test_halving_takes_weighted_means_of_neighbours(parts):
    """Side 7 halves the picture; pillow's triangle then weighs four neighbours 1, 3, 3, 1 along either side."""
    row = np.arange(0, 240, 12, dtype=np.uint8)
    path = parts / "birds" / "train" / "crow" / "00.png"
    Image.fromarray(np.tile(row, (HEIGHT, 1))).save(path)
    (x,) = load("birds@7", parts).train.raw(torch.tensor([0]))
    places = [2 * (2 + k) for k in range(7)]  # the first of each pair; the cut begins 2 from the left of 10
    means = [(row[p - 1] + 3.0 * row[p] + 3.0 * row[p + 1] + row[p + 2]) / 8 for p in places]
    assert torch.equal(x, torch.tensor(means).byte().expand(3, 7, 7))  # grey: all colours alike


def test_scales_need_no_pass_over_all_files(parts, monkeypatch):
    base = load("birds@14", parts)
    assert base.scaled("unit").train.scale == (0.0, 1 / 255)
    assert base.scaled("none").exam.scale == (0.0, 1.0)
    standard = base.scaled("standard")
    inputs = standard.train.take(torch.arange(24)).x
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.square().mean()) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("perdure.datasets.base.SAMPLE", 1)
    assert base.scaled("standard").train.scale != standard.train.scale
    with pytest.raises(Refused, match=re.escape("stream.scale is 'best'; it must be one of unit, standard, none")):
        base.scaled("best")


def test_files_are_opened_when_they_are_taken_and_no_sooner(birds):
    """One broken file stops who takes it, by name, and nobody else."""
    stream = build("split-birds@14", tasks=2, data_root=birds, options={"class_order": "0,1,2,3"})
    assert (stream.name, stream.shape, stream.scale) == ("split-birds@14", (3, 14, 14), (0.0, 1 / 255))
    assert [task.id.classes.tolist() for task in stream] == [[0, 1], [2, 3]]
    for number in range(10):
        (birds / "birds" / "wren" / f"{number:02}.png").write_bytes(b"broken")
    assert len(stream[0].examples.materialise().take(torch.arange(16)).x) == 16
    assert stream[1].examples.labels.bincount().tolist() == [0, 0, 8, 8]
    wrens = (stream[1].examples.labels == 3).nonzero()[:, 0]
    with pytest.raises(Refused, match=r"birds/wren/\d\d\.png cannot be read \(.*\); get it anew, or remove it"):
        stream[1].examples.take(wrens)


@pytest.mark.parametrize("format", ["png", "jpg", "gif"])
def test_a_file_cut_short_is_named(birds, format):
    path = birds / "birds" / "crow" / f"cut.{format}"
    Image.fromarray(picture(90, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    base = load("birds@14", birds)
    both = Concat([base.train, base.exam])
    with pytest.raises(Refused, match=rf"birds/crow/cut\.{format} cannot be read"):
        both.raw(torch.arange(len(both)))


@pytest.mark.parametrize("size", ["", "0", "x", "-3", "2.5"])
def test_a_size_that_is_none_is_refused(birds, size):
    message = f"base 'birds@{size}' cannot be read: after @ comes the side of the images in pixels, as in birds@224"
    with pytest.raises(Refused, match=re.escape(message)):
        load(f"birds@{size}", birds)


def test_empty_folders_are_named(birds):
    (birds / "birds" / "hawk").mkdir()
    with pytest.raises(Refused, match=r"birds/hawk holds no image \(\.jpg, .*\); put some into it, or remove it"):
        load("birds", birds)
    (birds / "fish").mkdir()
    with pytest.raises(Refused, match=r"fish holds no folders; give every class one of its own: .*/fish/CLASS/IMAGE"):
        load("fish", birds)


@pytest.mark.parametrize("part", ["train", "val"])
def test_both_parts_have_the_same_classes(parts, part):
    fill(parts / "birds" / part, 1, {"hawk": 9})
    with pytest.raises(Refused, match=r"only one of .*train and .*val has the class hawk; give both the same folders"):
        load("birds", parts)


def test_an_unknown_name_lists_the_folders(birds, cache):
    (birds / "empty").mkdir()
    (birds / ".hidden" / "class").mkdir(parents=True)
    with pytest.raises(Refused) as refusal:
        load("bird", birds)
    assert str(refusal.value) == (
        "unknown base 'bird'; did you mean birds? There are: digits, mnist, fashion-mnist, kmnist, cifar100, birds"
    )
    fill(cache / "birds", 1)
    assert len(load("birds", birds).train) == 32  # the root that is named first


def test_the_doctor_finds_folders(birds, monkeypatch):
    monkeypatch.setenv("PERDURE_DATA", str(birds))
    assert doctor.data()["others"] == {"birds": str(birds / "birds")}


def test_a_run_tells_the_colours_of_a_folder_apart(birds, tmp_path):
    result = perdure.run(
        "split-birds@14",
        "finetune",
        tasks=2,
        scenario="task",
        net="conv:4",
        data_root=str(birds),
        out=tmp_path / "run",
        options={"fit.steps": 60, "fit.lr": 0.01},
    )
    assert result.R[1, 0] == result.R[2, 1] == 1.0
