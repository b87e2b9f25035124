"""Images: a folder with a sub-folder for each class, or to be asked, any folder of images, or one of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from perdure.contract import Refused
from perdure.datasets.folder import SUFFIXES, Pictures, images, listing
from perdure.learner.intake.given import Given, Signature, check_label

SIZE = 64  # pixels a side, where none is asked for


def from_folder(folder: Path, size: int | None, labelled: bool) -> Given:
    """The images of a folder, resized as `Pictures` says; the label of each is the name of its sub-folder.

    Without labels, all images however deep. None is opened before it is taken.

    Raises:
        Refused: there are none, or a link leads out of the folder.
    """
    if not labelled:
        paths = images(folder)
        if not paths:
            raise Refused(f"{folder} holds no image ({', '.join(SUFFIXES)}); put some into it")
        _check_files(folder, paths)
        return _given(folder, paths, size)
    _check_links(folder, map(str, folder.glob("*/")))  # before their like is searched
    found = listing(folder)
    for name in found.names:
        check_label(str(folder), name)
    _check_files(folder, found.paths)
    return _given(folder, found.paths, size)._replace(y=np.array(found.names)[found.labels.numpy()])


def from_image(path: Path, size: int | None) -> Given:
    """One image."""
    return _given(path.parent, [str(path)], size)


def _given(folder: Path, paths: Sequence[str], size: int | None) -> Given:
    if size is not None and size < 1:
        raise Refused(f"images of {size} pixels a side are none; give a size of 1 or more")
    x = Pictures(paths, size or SIZE)
    names = (os.fsencode(os.path.relpath(path, folder)).decode("utf-8", "backslashreplace") for path in paths)
    return Given(Signature("images", x.shape[1:]), x, None, tuple(names))


def _check_links(folder: Path, paths: Iterable[str]) -> None:
    """Refuses links that lead out of the folder."""
    home = os.path.join(os.path.realpath(folder), "")
    for path in paths:
        if os.path.islink(path) and not os.path.join(os.path.realpath(path), "").startswith(home):
            raise Refused(f"{path} is a link that leads out of {folder}; put the images themselves into the folder")


def _check_files(folder: Path, paths: Sequence[str]) -> None:
    """Refuses what is no plain file in the folder: links that lead out of it or nowhere, pipes, devices."""
    _check_links(folder, paths)
    for path in paths:
        try:
            plain = stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            raise Refused(f"{path} cannot be read ({error.strerror}); remove it") from error
        if not plain:
            raise Refused(f"{path} is no plain file; remove it")
