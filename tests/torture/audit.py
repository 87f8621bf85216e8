"""Model scanners and `pip-audit`, in a separate virtual environment. As a script: only the audit of dependencies."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.torture.payloads import Payload

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("scanners.txt")
CONSTRAINTS = ROOT / "constraints.txt"
SCANNED = ("artifacts", "src")


def scanned(folder: Path, made: list[Payload]) -> Iterator[Attack]:
    """Scan every file in artifacts/ and src/ with two scanners.

    The scanners go by file names and skip ONNX, JSON and Python files. So each file is also copied
    under a `.pkl` name, which makes the scanner read it as a pickle.
    """
    ours, theirs = folder / "ours", folder / "theirs"
    files = [
        path
        for part in SCANNED
        for path in (ROOT / part).rglob("*")
        # picklescan fails on an empty file
        if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size
    ]
    for path in files:
        _put(ours / path.relative_to(ROOT), path.read_bytes())
    for payload in made:
        if payload.name.endswith(".pkl"):  # also as a file called model.onnx
            _put(theirs / payload.name.removesuffix(".pkl") / "model.onnx", payload.content)
    for name, scan in SCANNERS.items():
        attack = Attack("No code from files", f"{name}, over a file of artifacts/ or src/")
        read, issues = scan(ours)
        attack.made(times=len(files))
        attack.harm += issues
        if read < len(files):
            attack.harm.append(f"it has read {read} of {len(files)} files")
        read, issues = scan(theirs)
        control = Attack("No code from files", f"control: {name} finds a pickle called model.onnx")
        for path in theirs.rglob("model.onnx"):
            kind = path.parent.name
            is_found = any(kind in issue for issue in issues)
            control.made(harm=None if is_found else f"not found: {kind}")
        yield from (attack, control)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.with_name(path.name + ".pkl").write_bytes(content)


def _modelscan(folder: Path) -> tuple[int, list[str]]:
    """Return how many files modelscan read or tried to read, and the issues it found."""
    report = folder.with_suffix(".json")
    _run("modelscan", "-p", str(folder), "-r", "json", "-o", str(report), codes=(0, 1, 2, 3))
    found = json.loads(report.read_text())
    issues = [f"{issue['source']}: {issue['description']}" for issue in found["issues"]]
    unread = [error for error in found["errors"] if error["category"] != "PICKLE_GENOPS"]
    issues += [f"error: {error}" for error in unread]
    return found["summary"]["scanned"]["total_scanned"] + len(found["errors"]), issues


def _picklescan(folder: Path) -> tuple[int, list[str]]:
    said = _run("picklescan", "-p", str(folder), codes=(0, 1, 2))
    [read] = re.findall(r"^Scanned files: (\d+)$", said, re.MULTILINE)
    return int(read), re.findall(r"^.* FOUND$", said, re.MULTILINE)


SCANNERS: dict[str, Callable[[Path], tuple[int, list[str]]]] = {
    "modelscan": _modelscan,
    "picklescan": _picklescan,
}


def dependencies() -> Attack:
    """Check the versions in constraints.txt for vulnerabilities known to PyPI.

    `pip-audit` exits with success even if it could look nothing up, so the packages it did look up
    are counted.
    """
    said = _run(
        "pip-audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip",
        "--format", "json", "--progress-spinner", "off", codes=None,
    )  # fmt: skip
    try:
        found = json.loads(said)["dependencies"]
    except ValueError:
        found = []
    looked_up = [package for package in found if "vulns" in package]
    attack = Attack("Dependencies audited", "pip-audit, over a version of constraints.txt")
    for package in looked_up:
        known = ", ".join(fault["id"] for fault in package["vulns"])
        harm = f"{package['name']} {package['version']}: {known}"
        attack.made(harm=harm if known else None)
    if not looked_up:
        attack.what = "pip-audit: not run, because its data was out of reach"
    elif len(looked_up) < len(found):
        attack.what += f"; no data of {len(found) - len(looked_up)} more"
    return attack


def _run(tool: str, *arguments: str, codes: tuple[int, ...] | None) -> str:
    """Return the standard output of a tool. Raises RuntimeError if its exit code is not in `codes`."""
    command = [str(_environment() / "bin" / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if codes is not None and done.returncode not in codes:
        raise RuntimeError(f"{tool} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout


def _environment() -> Path:
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    folder = ROOT / "warehouse" / "scanners" / digest
    if (folder / "installed").exists():
        return folder
    try:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (folder / ".gitignore").write_text("*\n")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        (folder / "installed").touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def main() -> None:
    """`make audit`: exit with 0 if no vulnerability is known, 1 if one is, and 2 if nothing could be looked up."""
    attack = dependencies()
    print("\n".join([f"{attack.what}: {attack.attacks:,} looked up", *attack.harm]))
    sys.exit(1 if attack.harm else 0 if attack.attacks else 2)


if __name__ == "__main__":
    main()
