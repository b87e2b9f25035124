"""Say whether everything works here: versions, threads, devices, data, disk and speed.

Ends with status 1, and what to do, where something without which nothing works is broken.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib import import_module, metadata
from typing import Any

from perdure import __version__

MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}  # by distribution, where the names differ
LEAST = (3, 11)


def main(words: list[str]) -> int:
    """Carries out the verb."""
    versions, problems = packages()  # before anything that imports them
    if problems and not {"-h", "--help"} & {*words}:
        return _broken(versions, problems, "--json" in words)
    from perdure.cli.parser import Parser

    usage = "perdure doctor [--no-speed] [--json]"
    parser = Parser("doctor", usage, "Says whether everything works here, and what to do where it does not.")
    parser.add_argument("--no-speed", action="store_true", help="leave out the speed check, which takes 5 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.read(words)
    from perdure.experiments import doctor

    disk = doctor.disk()
    if fault := doctor.works():
        problems.append({"what": f"a tiny run failed: {fault}", "do": "install perdure anew, or report this output"})
    if not disk["writable"]:
        problems.append(
            {"what": f"{disk['folder']} cannot be written", "do": "work in a folder of yours, or use --out"}
        )
    found = {
        "ok": not problems,
        "problems": problems,
        "versions": versions,
        "platform": platform.platform(),
        "threads": doctor.threads(),
        "devices": doctor.devices(),
        "data": doctor.data(),
        "disk": disk,
        "speed": None if "no_speed" in given else doctor.speed(),
    }
    print(json.dumps(found) if "json" in given else "\n".join(said(found)))
    return 0 if found["ok"] else 1


def packages() -> tuple[dict[str, str | None], list[dict[str, str]]]:
    """The versions of Python, perdure and what it needs (None where missing), and what is wrong with them."""
    python = platform.python_version()
    versions: dict[str, str | None] = {"perdure": __version__, "python": python}
    problems = []
    if sys.version_info < LEAST:
        problems.append(_problem(f"Python {python} is too old", "install Python 3.11 or newer"))
    try:
        needed = metadata.requires("perdure") or []
    except metadata.PackageNotFoundError:
        return versions, [*problems, _problem("perdure is not installed, only found", "run: pip install .")]
    for line in needed:
        if "extra ==" in line or (match := re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\d.]+))?", line)) is None:
            continue
        name, least = match[1], match[2] or "0"
        try:
            version = versions[name] = metadata.version(name)
            import_module(MODULES.get(name.lower(), name.replace("-", "_")))
        except metadata.PackageNotFoundError:
            versions[name] = None
            problems.append(_problem(f"{name} is missing", f"run: pip install '{name}>={least}'"))
        except Exception as error:  # a package can break in any way when it is imported
            problems.append(_problem(f"{name} {version} cannot be imported ({error})", f"run: pip install -U '{name}'"))
        else:
            if _numbers(version) < _numbers(least):
                fix = f"run: pip install -U '{name}>={least}'"
                problems.append(_problem(f"{name} {version} is too old", fix))
    return versions, problems


def _problem(what: str, do: str) -> dict[str, str]:
    return {"what": what, "do": do}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _broken(versions: dict[str, str | None], problems: list[dict[str, str]], as_json: bool) -> int:
    """Says what is wrong without any of the packages that may be broken."""
    found = {"ok": False, "problems": problems, "versions": versions}
    print(json.dumps(found) if as_json else "\n".join([*_versions(versions), "", *_verdict(problems)]))
    return 1


def _versions(versions: dict[str, str | None]) -> list[str]:
    width = max(map(len, versions))
    return ["versions", *(f"  {name:<{width}}  {version or 'MISSING'}" for name, version in versions.items())]


def _verdict(problems: list[dict[str, str]]) -> list[str]:
    if not problems:
        return ["Everything works. A start: perdure run permuted-digits ewc"]
    return [line for item in problems for line in (f"BROKEN: {item['what']}", f"  what to do: {item['do']}")]


def said(found: dict[str, Any]) -> list[str]:
    """What was found, as lines for a person; the verdict is the last."""
    threads, data, disk, speed = (found[name] for name in ("threads", "data", "disk", "speed"))
    lines = [*_versions(found["versions"]), "", "machine", f"  {found['platform']}"]
    lines.append(f"  {threads['cores']} cores; threads: torch alone would take {threads['torch']}")
    lines.append(
        f"  a run takes {threads['run_of_a_small_net']} for a network below a million parameters, "
        f"{threads['run_of_a_large_net']} above (--threads N for others)"
    )
    lines.append(f"  devices: {'; '.join(found['devices'])}; a run takes the first (--device cpu for the processor)")
    lines += ["", "data", "  looked for in:"]
    lines += [f"    {root['path']}{'' if root['there'] else ' (not there)'}" for root in data["roots"]]
    missing = False
    for name, base in data["bases"].items():
        missing |= base["found"] is None
        fault = f" ({base['fault']})" if base["fault"] else ""
        lines.append(f"  {name:<14} {base['found'] or 'missing'}{fault}")
    lines += [f"  {name:<14} {path}" for name, path in data["others"].items()]
    if missing:
        lines.append("  what is missing is downloaded when a run needs it, where its address is known; or put it into")
        lines.append("  one of these folders, or name the one that holds it: --data-root DIR, or PERDURE_DATA=DIR")
    lines += ["", "disk", f"  {disk['folder']}: {disk['free'] / 1e9:.1f} GB free"]
    if speed is not None:
        lines += ["", "speed", f"  {speed['perdure_us']:.0f} µs a step, by hand {speed['raw_us']:.0f} µs: "]
        lines[-1] += f"{speed['ratio']:.2f} times a loop written by hand (784-256-256-10, batch 128)"
        if speed["ratio"] > 1.3:
            lines.append("  slower than it should be: other programs may be at work; try again when it is quiet")
    return [*lines, "", *_verdict(found["problems"])]
