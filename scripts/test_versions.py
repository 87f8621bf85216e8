"""Run the tests with versions that differ from constraints.txt: `make test-dbt`, `make test-latest`.

    python scripts/test_versions.py 'dbt-core~=1.12.0' duckdb==2.0.1      these; all others from constraints.txt
    python scripts/test_versions.py --latest                              the newest allowed versions
    python scripts/test_versions.py --latest -- tests/unit                with arguments for pytest

Each set of versions has a separate environment in .venvs/. The script prints the installed versions. Its exit code
is that of pytest, or 2 if the versions cannot be installed together.
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
    """Install the package with its development tools; without requirements, the newest version of each package.

    Raises CalledProcessError if pip finds no compatible versions.
    """
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, STAND_IN], check=True)
    if requirements:
        constraints = PROJECT / "constraints.txt"
        subprocess.run([*pip, "--constraint", constraints, *PACKAGE], check=True)
        # pip keeps installed packages unless they conflict with the requirements
        subprocess.run([*pip, *PACKAGE, *requirements], check=True)
    else:
        subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "eager", *PACKAGE], check=True)


def versions(python: Path, names: tuple[str, ...] = SHOWN) -> dict[str, str]:
    """Return the installed versions of packages, by default of the most important dependencies."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: found[name] for name in names}


def main() -> None:
    """Install the versions, print them, and run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirements", nargs="*", help="version requirements, as for pip")
    parser.add_argument("--latest", action="store_true", help="install the newest allowed versions")
    own = sys.argv[1:]
    split = own.index("--") if "--" in own else len(own)
    options, pytest_arguments = parser.parse_args(own[:split]), own[split + 1 :]
    if options.latest == bool(options.requirements):
        parser.error("pass either version requirements or --latest")
    folder = PROJECT / ".venvs" / ("-".join(options.requirements) or "latest")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    try:
        install(python, options.requirements)
    except subprocess.CalledProcessError as error:
        print(f"pip exited with {error.returncode}, so no tests were run", file=sys.stderr)
        sys.exit(2)
    for name, version in versions(python).items():
        print(f"{name} {version}", flush=True)
    sys.exit(
        subprocess.run(
            [python, "-m", "pytest", *pytest_arguments], cwd=PROJECT, check=False
        ).returncode
    )


if __name__ == "__main__":
    main()
