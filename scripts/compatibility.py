"""Test the lowest and the highest supported versions, and print them as a table: `make compatibility`.

    python scripts/compatibility.py python3.11 python3.13      interpreters for the lowest and for the highest

The lowest versions are the lower bounds in pyproject.toml, the highest are the newest that pip finds. Each set has
an environment of its own in .venvs/, without the development tools: what the package needs has to be installed with
it. The exit code is 1 if a test fails, 2 if pip cannot install the versions together.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

from test_versions import PROJECT, STAND_IN, versions

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = (
    "dbt-core",
    "dbt-duckdb",
    "duckdb",
    "onnxruntime",
    "onnx",
    "numpy",
    "pyarrow",
    "click",
    "rich",
)
# the kernel, the plan of a run, and `dbt build` of whole projects
TESTS = (
    "tests/unit/test_scoring.py",
    "tests/unit/test_session.py",
    "tests/functional/test_plan.py",
    "tests/functional/test_predictions_materialization.py",
)


def lower_bounds() -> list[str]:
    """Return a requirement of exactly the lower bound for each dependency of the package with its extra duckdb."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["duckdb"]]
    return [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in listed]


def environment(name: str, interpreter: str, requirements: list[str]) -> Path:
    """Create an environment with the package, its extra duckdb, and the requirements; return its Python.

    Raises CalledProcessError if pip finds no compatible versions.
    """
    folder = PROJECT / ".venvs" / f"compatibility-{name}"
    python = folder / "bin" / "python"
    subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, STAND_IN], check=True)
    package = f"{PROJECT}[duckdb]"
    subprocess.run([*pip, "--editable", package, "pytest", *requirements], check=True)
    return python


def result_of(python: Path) -> tuple[str, bool]:
    """Run the tests. Returns pytest's last line without its time, and whether all passed."""
    # all tests of the repository report warnings as errors; older versions have warnings of their own
    command = [python, "-m", "pytest", "--quiet", "-W", "default", *TESTS]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(line, file=sys.stderr)
    last = lines[-1] if lines else done.stderr
    return re.sub(r", \d+ warnings?| in [\d.]+s.*", "", last), done.returncode == 0


def main() -> None:
    """Install and test both sets, and print the table."""
    lowest, highest = sys.argv[1:]
    table: list[dict[str, str]] = []
    passed = []
    for name, interpreter, requirements in (
        ("lowest", lowest, lower_bounds()),
        ("highest", highest, []),
    ):
        try:
            python = environment(name, interpreter, requirements)
        except subprocess.CalledProcessError as error:
            print(f"pip exited with {error.returncode} for the {name} versions", file=sys.stderr)
            sys.exit(2)
        said = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
        tests, all_passed = result_of(python)
        passed.append(all_passed)
        table.append(
            {
                "": name,
                "Python": said.stdout.split()[1],
                **versions(python, SHOWN),
                "tests": tests,
            }
        )
    for number, heading in enumerate(table[0]):
        print("|", " | ".join([heading, *(column[heading] for column in table)]), "|", flush=True)
        if number == 0:
            print("|---|---|---|")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
