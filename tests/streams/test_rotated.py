"""Rotations: exact where the grid meets itself, as pillow's elsewhere; which angles a stream has."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets import Base
from perdure.streams.rotated import rotated, turned


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def degrees(*angles):
    return torch.tensor(angles, dtype=torch.float64)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 9, 9), (2, 3, 28, 28)])
def test_quarter_turns_are_exact_and_counter_clockwise(interpolation, shape):
    x = noise(*shape)
    for quarters in (-1, 0, 1, 2, 3, 4):
        out = turned(x, degrees(90.0 * quarters), interpolation)
        assert out.dtype == torch.uint8
        assert torch.equal(out, x.rot90(quarters, (-2, -1)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_half_a_turn_of_what_is_not_square(interpolation):
    x = noise(3, 5, 8)
    assert torch.equal(turned(x, degrees(180.0), interpolation), x.rot90(2, (1, 2)))


@pytest.mark.parametrize("angle", [10, 20, 40, 60, 80, 123.4])
@pytest.mark.parametrize("size", [(28, 28), (20, 31)])
def test_nearest_is_that_of_pillow(angle, size):
    x = noise(20, *size)
    pillow = [np.asarray(Image.fromarray(image.numpy()).rotate(angle)) for image in x]
    other = turned(x, degrees(angle), "nearest").numpy() != np.stack(pillow)
    assert other.any(0).sum() <= 1  # pillow counts in 1/65536 of a pixel: a place on the edge of two may fall apart


def test_bilinear_keeps_a_plane_inside():
    """A linear function of the place, turned, is the linear function of the turned place."""
    rows, columns = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
    out = turned((3 * columns + rows)[None], degrees(30.0), "bilinear")[0]
    c, s = 3**0.5 / 2, 0.5
    wish = 3 * (c * columns - s * rows) + (s * columns + c * rows)
    inside = rows.square() + columns.square() < 16
    assert torch.allclose(out[inside], wish[inside], atol=1e-4)


def test_each_row_has_its_own_angle():
    x, angles = noise(4, 8, 8), degrees(0.0, 33.0, 90.0, 170.0)
    alone = [turned(x[i : i + 1], angles[i : i + 1], "nearest") for i in range(4)]
    assert torch.equal(turned(x, angles, "nearest"), torch.cat(alone))


def angles(stream):
    return [stream.exams[i].examples.transform.degrees for i in range(len(stream))]


def test_evenly_draws_one_angle_in_each_bin(digits):
    drawn = angles(rotated(digits, 20))
    assert all(9 * i <= angle < 9 * (i + 1) for i, angle in enumerate(drawn))
    assert drawn == angles(rotated(digits, 20))
    assert drawn != angles(rotated(digits, 20, seed=1))


def test_uniform_draws_from_all(digits):
    drawn = torch.tensor(angles(rotated(digits, 300, angles="uniform")))
    assert drawn.min() >= 0
    assert drawn.max() < 180
    assert drawn.div(60).long().bincount(minlength=3).min() > 80
    assert not torch.equal(drawn, drawn.sort().values)


def test_angles_are_listed_or_stepped(digits):
    assert angles(rotated(digits, 5, angles="0,20,40,60,80")) == [0, 20, 40, 60, 80]
    assert angles(rotated(digits, 3, step=-7.5)) == [0, -7.5, -15]


def test_training_and_exam_turn_alike(digits):
    stream = rotated(digits, 2, angles="0,90")
    for t in range(2):
        for examples, part in ((stream[t].examples, digits.train), (stream.exams[t].examples, digits.exam)):
            assert torch.equal(examples.raw(torch.arange(50)), part.x[:50].rot90(t, (1, 2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"angles": "0,20", "tasks": 3}, "stream.angles names 2 angles for 3 tasks; give one angle a task"),
        (
            {"angles": "evently"},
            "stream.angles is 'evently'; use evenly, uniform, or degrees with commas between (0,20,40)",
        ),
        ({"angles": "0,nan", "tasks": 2}, "stream.angles is '0,nan'"),
        ({"angles": "uniform", "step": 3.0}, "stream.angles and stream.step are both given; give one of them"),
        ({"step": float("inf")}, "stream.step is inf; give a number of degrees"),
        ({"interpolation": "cubic"}, "stream.interpolation is 'cubic'; it must be one of nearest, bilinear"),
        ({"tasks": 0}, "tasks is 0; it must be at least 1"),
    ],
)
def test_bad_angles_are_refused(digits, given, message):
    with pytest.raises(Refused, match=re.escape(message)):
        rotated(digits, **given)


def test_vectors_cannot_be_turned():
    part = Arrays(torch.zeros(4, 9), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(Refused) as refusal:
        rotated(Base("lines", part, part, 2))
    assert str(refusal.value) == ("rotated turns images, but an input of lines has shape (9,); use permuted-lines")
