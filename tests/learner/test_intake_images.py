"""Folders of images as a learner takes them: labels, names, links, pipes, and images that are larger than they look."""

import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from perdure.contract import Refused
from perdure.datasets.folder import PIXELS, Pictures
from perdure.learner.intake import Signature, read


def paint(path, red, side=64, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (red, 0, 0)).convert(mode).save(path)
    return path


@pytest.fixture
def birds(tmp_path):
    """Two owls and three wrens."""
    folder = tmp_path / "birds"
    for number in range(2):
        paint(folder / "owl" / f"{number}.png", 10 + number)
    for number in range(3):
        paint(folder / "wren" / "more" / f"{number}.bmp", 20 + number)
    return folder


def test_a_folder_is_labelled_by_its_folders(birds):
    given = read(birds)
    assert given.signature == Signature("images", (3, 64, 64))
    assert given.x.shape == (5, 3, 64, 64)
    assert given.y.tolist() == ["owl"] * 2 + ["wren"] * 3
    assert given.names == ("owl/0.png", "owl/1.png", "wren/more/0.bmp", "wren/more/1.bmp", "wren/more/2.bmp")
    x = given.x[np.array([4, 0])]
    assert (x.dtype, x[:, 0, 0, 0].tolist()) == (torch.uint8, [22, 10])
    assert read(str(birds), size=32).signature.shape == (3, 32, 32)


def test_images_to_be_asked_lie_anywhere(birds):
    paint(birds / "0.png", 90)
    given = read(birds, labelled=False)
    assert (given.names[0], given.y) == ("0.png", None)
    assert given.x[np.arange(6)][:, 0, 0, 0].tolist() == [90, 10, 11, 20, 21, 22]
    one = read(birds / "owl" / "1.png", size=8, labelled=False)
    assert (one.signature.shape, one.names) == ((3, 8, 8), ("1.png",))
    assert one.x[np.arange(1)][0, 0, 0, 0] == 11


def test_names_that_are_no_text_can_be_printed(birds):
    paint(birds / "owl" / os.fsdecode(b"b\xff.png"), 3)
    assert read(birds).names[2] == "owl/b\\xff.png"


def test_links_within_the_folder_are_followed(birds):
    (birds / "owl" / "2.png").symlink_to(birds / "owl" / "0.png")
    (birds / "strix").symlink_to(birds / "owl")
    (birds.parent / "alias").symlink_to(birds)
    given = read(birds.parent / "alias")
    assert given.y.tolist() == ["owl"] * 3 + ["strix"] * 3 + ["wren"] * 3
    assert given.x[np.array([2, 5])][:, 0, 0, 0].tolist() == [10, 10]


@pytest.mark.parametrize("labelled", [True, False])
def test_links_that_lead_out_are_refused(birds, labelled):
    secret = paint(birds.parent / "birds-secret" / "in" / "0.png", 1)
    link = birds / "owl" / "2.png"
    link.symlink_to(os.path.relpath(secret, link.parent))
    with pytest.raises(Refused, match=r"owl/2\.png is a link that leads out of .*; put the images themselves into"):
        read(birds, labelled=labelled)
    link.unlink()
    (birds / "owl" / "deeper").symlink_to(secret.parent)  # a folder below a class is not followed at all
    assert read(birds, labelled=labelled).x.shape[0] == 5
    (birds / "swan").symlink_to(secret.parent)
    if labelled:
        with pytest.raises(Refused, match="swan is a link that leads out of"):
            read(birds)
    else:
        assert read(birds, labelled=False).x.shape[0] == 5


def test_pipes_and_broken_links_are_refused(birds):
    os.mkfifo(birds / "owl" / "2.png")
    with pytest.raises(Refused, match=r"owl/2\.png is no plain file; remove it"):
        read(birds)
    (birds / "owl" / "2.png").unlink()
    (birds / "owl" / "2.png").symlink_to(birds / "owl" / "nothing.png")
    with pytest.raises(Refused, match=r"owl/2\.png cannot be read \(No such file or directory\); remove it"):
        read(birds)


def test_folders_that_cannot_be_labels_are_refused(birds):
    (birds / "owl").rename(birds / "o\nwl")
    with pytest.raises(Refused, match=re.escape("holds the label 'o\\nwl', which has control characters; remove them")):
        read(birds)
    with pytest.raises(Refused, match=r"birds/wren holds no folders|wren/more"):
        read(birds / "wren" / "more")


def test_an_empty_folder_and_no_size_are_refused(birds, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused, match=r"none holds no image \(\.jpg, .*\); put some into it"):
        read(tmp_path / "none", labelled=False)
    with pytest.raises(Refused, match="images of 0 pixels a side are none; give a size of 1 or more"):
        read(birds, size=0)


def bomb(path, width, height):
    """A PNG that says it has so many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("width", "height"), [(8001, 8000), (12_000, 12_000), (60_000, 60_000), (1 << 30, 1 << 30), (1, 60_000_000)]
)
def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, width, height):
    """By its own size, or by the one it would be resized to."""
    bomb(tmp_path / "bomb.png", width, height)
    given = read(tmp_path / "bomb.png", labelled=False)
    tracemalloc.start()
    with pytest.raises(Refused, match=r"bomb\.png cannot be read \(.*pixels.*\); get it anew, or remove it"):
        given.x[np.arange(1)]
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_the_message_says_how_large_it_is(tmp_path):
    bomb(tmp_path / "bomb.png", 8001, 8000)
    with pytest.raises(Refused, match=re.escape("it has 8001 x 8000 pixels, and 73 x 73 when it is resized; at most")):
        read(tmp_path / "bomb.png", labelled=False).x[np.arange(1)]
    assert PIXELS == 64_000_000


def test_formats_that_start_programs_are_not_tried(tmp_path):
    """PostScript is handed to an interpreter by pillow, whatever the file is called."""
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(Refused, match=r"1\.png cannot be read \(cannot identify image file"):
        read(tmp_path / "1.png", labelled=False).x[np.arange(1)]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"])
def test_every_kind_of_file_that_is_listed_is_read(tmp_path, suffix):
    path = paint(tmp_path / f"1.{suffix}", 90)
    x = Pictures([str(path)], 64)[np.arange(1)]
    assert abs(int(x[0, 0, 0, 0]) - 90) <= 2


def test_what_pillow_warns_of_goes_unsaid(tmp_path):
    """Transparency of a palette in bytes: pillow warns as it becomes RGB, and warnings are errors here."""
    image = Image.new("P", (64, 64))
    image.putpalette([5, 6, 7] * 256)
    image.save(tmp_path / "1.png", transparency=bytes(range(256)))
    assert read(tmp_path / "1.png", labelled=False).x[np.arange(1)][0, :, 0, 0].tolist() == [5, 6, 7]
