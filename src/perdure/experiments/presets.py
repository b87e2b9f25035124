"""Options in layers: those given, then those of a configuration file, then those of a preset.

A preset is a configuration file inside the package. Its first lines, comments, say what it is for. Options that
are for one method only stand under its name in the section `methods`, and beat what the file says for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from perdure.contract import Refused, unknown

FOLDER = Path(str(resources.files("perdure.experiments"))) / "presets"
RIVALS = (("fit.epochs", "fit.steps"), ("seed", "seeds"))  # where one is given, a lower layer's other one is void


def presets() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def file_of(name: str) -> Path:
    """The file of a preset.

    Raises:
        Refused: there is none of that name; the nearest is named.
    """
    if name not in presets():
        raise unknown("preset", name, presets())
    return FOLDER / f"{name}.yaml"


def about(path: Path) -> str:
    """What a configuration file says of itself: the comment it begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:end])


def read(path: Path, method: str = "") -> dict[str, Any]:
    """The options of a YAML file by their names: {"net": "mlp:400", "fit.lr": 0.1}, written dotted or nested.

    Args:
        method: whose section is read too.

    Raises:
        Refused: there is no such file, it is no YAML, holds no names, or one name twice.
    """
    content = opened(path)
    of_methods = section(path, "methods", content.pop("methods", None))
    own = section(path, f"methods.{method}", of_methods.get(method))
    return layered(named(path, own), named(path, content))


def section(path: Path, name: str, content: Any) -> dict[str, Any]:
    """A part of a file that must hold names, or nothing.

    Raises:
        Refused: it holds something else.
    """
    if not isinstance(content, dict | None):
        raise Refused(f"{path}: {name} must hold options by name, such as lam: 10, not {type(content).__name__}")
    return {str(key): value for key, value in (content or {}).items()}


def opened(path: Path) -> dict[str, Any]:
    """What a YAML file holds, by name.

    Raises:
        Refused: there is no such file, it is no YAML, or it holds no names.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"the configuration file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise Refused(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} must hold options by name, such as net: mlp:400, not {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def named(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their dotted names, as a file at `path` has them, nested or not.

    Raises:
        Refused: one name is given twice.
    """
    options: dict[str, Any] = {}
    for name, value in _flat(content):
        if name in options:
            raise Refused(f"{path} gives {name} twice; give it once")
        options[name] = value
    return options


def _flat(content: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = before + str(key).replace("-", "_")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One set of options from several; what an earlier one says beats the later ones."""
    out: dict[str, Any] = {}
    for layer in layers:
        taken = set(out).union(*(pair for pair in RIVALS if not out.keys().isdisjoint(pair)))
        out |= {name: value for name, value in layer.items() if name not in taken}
    return out


def gathered(
    given: Mapping[str, Any], preset: str | None = None, config: str | Path | None = None, method: str = ""
) -> dict[str, Any]:
    """Options by name, for a method: what is given beats the file `config`, which beats the preset.

    Raises:
        Refused: there is no such file or preset, or it cannot be used.
    """
    below = {} if preset is None else read(file_of(preset), method)
    return layered(given, {} if config is None else read(Path(config), method), below)
