"""Run the tests with other versions than those of constraints.txt: `make test-dbt`, `make test-latest`.

    python scripts/test_versions.py 'dbt-core~=1.12.0' duckdb==2.0.1      these; the rest as constrained
    python scripts/test_versions.py --latest                              the newest that are allowed
    python scripts/test_versions.py --latest -- tests/unit                with arguments of pytest

Each set has an environment of its own in .venvs/. Prints what it got. The exit code is pytest's, whose
last lines name what failed; 2 when the versions cannot be installed together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
STAND_IN = PROJECT / "tests" / "parser_stand_in"
PACKAGE = ("--editable", f"{PROJECT}[dev]")
SHOWN = (
    "dbt-core", "dbt-adapters", "dbt-duckdb", "duckdb", "onnxruntime", "onnx", "numpy", "pyarrow",
    "scikit-learn", "skl2onnx",
)  # fmt: skip


def install(python: Path, requirements: list[str]) -> None:
    """Install the package for its developers; without requirements, the newest of everything.

    Raises CalledProcessError when pip finds no versions that go together.
    """
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, STAND_IN], check=True)
    if requirements:
        constraints = PROJECT / "constraints.txt"
        subprocess.run([*pip, "--constraint", constraints, *PACKAGE], check=True)
        # what is installed stays, unless it does not go with them
        subprocess.run([*pip, *PACKAGE, *requirements], check=True)
    else:
        subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "eager", *PACKAGE], check=True)


def versions(python: Path) -> dict[str, str]:
    """What is installed of the packages that the product stands on."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: found[name] for name in SHOWN}


def main() -> None:
    """Install, tell, test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirements", nargs="*", help="versions, as pip takes them")
    parser.add_argument("--latest", action="store_true", help="the newest that are allowed")
    own = sys.argv[1:]
    split = own.index("--") if "--" in own else len(own)
    options, asked = parser.parse_args(own[:split]), own[split + 1 :]
    if options.latest == bool(options.requirements):
        parser.error("give versions, or --latest")
    folder = PROJECT / ".venvs" / ("-".join(options.requirements) or "latest")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    try:
        install(python, options.requirements)
    except subprocess.CalledProcessError as error:
        print(f"pip ended with {error.returncode}: no tests were run", file=sys.stderr)
        sys.exit(2)
    for name, version in versions(python).items():
        print(f"{name} {version}", flush=True)
    sys.exit(subprocess.run([python, "-m", "pytest", *asked], cwd=PROJECT, check=False).returncode)


if __name__ == "__main__":
    main()
