"""The way of ImageNet, small: a folder of images, a ResNet-50, a mask a task."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def test_a_folder_of_images_is_learned_by_masks_on_a_resnet(perdure, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 2)):
        for label in range(4):
            (folder := tmp_path / "data" / "toy" / part / f"class {label}").mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{number}.png")
    said = perdure(
        "run split-toy@32 supsup --tasks 2 --net resnet50:2 --fit.steps 2 --fit.batch 4 --data-root data --json"
    )
    assert said.status == 0, said.err
    found = json.loads(said.out.splitlines()[-1])
    assert (found["stream"], found["scenario"]) == ("split-toy@32", "gnu")
    given = np.array(found["R_given"], dtype=float)
    assert given.shape == (3, 2)
    assert given[1, 0] == given[2, 0]  # the first task's mask and statistics answer as they did
    assert found["stored_bytes"] > 0
