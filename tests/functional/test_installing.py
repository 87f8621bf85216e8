"""Installing the Python package and the dbt package into a new project: the README's steps, in a new environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from warehouse import line_model

from dbt_onnx import __version__

PACKAGE = Path(__file__).resolve().parents[2]
NAME = f"dbt_onnx-{__version__}"

PROJECT = """
name: acme
version: "1.0"
profile: acme
model-paths: [models, python_models]
flags:
  send_anonymous_usage_stats: false
  # dbt 1.10 reads `arguments:` of data tests only with this flag; later versions always do
  require_generic_test_arguments_property: true
"""
PROFILE = "acme: {target: dev, outputs: {dev: {type: duckdb, path: acme.duckdb, threads: 4}}}\n"
SEEDS = """
seeds:
  - name: model_registry
    config: {column_types: {model_version: string}}
"""
# a model name that the reference project uses, too
FEATURES = """
{{ config(materialized='table') }}
select 'c' || i as customer_id, i / 2.0 as a, 1 as b from range(1000) as numbers (i)
"""
SCORES = """
from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt, session,
        features=dbt.ref("customer_features"),
        registry=dbt.ref("model_registry"),
        model="gain",
        key=["customer_id"],
    )
"""
CURRENT = """
{{ dbt_onnx.current_predictions(
    ref('gain_predictions'), registry=ref('model_registry'), key=['customer_id']
) }}
"""
TESTS = """
models:
  - name: gain_predictions
    data_tests:
      - dbt_onnx.predictions_are_fresh:
          arguments:
            key: [customer_id]
            warn_after: {count: 1, period: day}
            error_after: {count: 2, period: day}
      - dbt_onnx.predictions_are_complete:
          arguments: {key: [customer_id], entities: ref('customer_features')}
"""
NODES = {
    "acme.customer_features",
    "acme.gain_current",
    "acme.gain_predictions",
    "acme.model_registry",
    "acme.dbt_onnx_predictions_are_complete_gain_predictions_ref_customer_features___customer_id",
    "acme.dbt_onnx_predictions_are_fresh_gain_predictions_2__day__customer_id__1__day",
}
LIGHT = """
import sys
import dbt_onnx

heavy = {"dbt", "duckdb", "numpy", "onnx", "onnxruntime", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
dbt_onnx.score
assert not {"duckdb", "onnxruntime"} & set(sys.modules)
"""
UNTRAINABLE = """
import dbt_onnx

try:
    dbt_onnx.export(object(), [[1.0]], name="gain", version="2")
except Exception as error:
    print(type(error).__name__, error)
"""
# all other versions are up to dbt-core, whose releases require different ones
PINNED = {"dbt-duckdb", "duckdb", "numpy", "onnx", "onnxruntime", "pyarrow"}


def sources() -> set[str]:
    """The files below src that Git knows."""
    listed = run("git", "ls-files", "src", folder=PACKAGE).split()
    return {name.removeprefix("src/") for name in listed}


class Environment:
    """A virtual environment with the package and one version of dbt-core, and nothing from this repository."""

    def __init__(self, folder: Path, *, wheel: Path, dbt_core: str) -> None:
        self.bin = folder / "venv" / "bin"
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        tested = (PACKAGE / "constraints.txt").read_text().splitlines()
        constraints = folder / "constraints.txt"
        pinned = [line for line in tested if line.partition("==")[0] in PINNED]
        constraints.write_text("\n".join(pinned))
        run(
            sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet", "--no-compile",
            "--constraint", constraints, f"{wheel}[duckdb]", f"dbt-core~={dbt_core}.0",
            # what dbt 1.12 requires, and downloads from elsewhere than PyPI
            PACKAGE / "tests" / "parser_stand_in",
        )  # fmt: skip


def run(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command without the environment variables of this process that affect dbt or Python.

    Returns its output, both stdout and stderr.
    """
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("DBT_", "PYTHON"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "DO_NOT_TRACK": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it: what `make package` writes into dist/."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, PACKAGE)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_twine_accepts_what_is_uploaded(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))


def test_the_wheel_has_the_files_below_src_and_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - metadata == sources()
    assert {name.partition("/")[2] for name in metadata} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_sdist_has_the_same_files_and_no_seeds_tests_or_databases(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names == {f"src/{name}" for name in sources()} | {
        ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml",
    }  # fmt: skip


def test_the_description_on_pypi_has_no_link_to_a_file_of_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{NAME}.dist-info/METADATA").decode()
    _, _, described = text.partition("\n\n")
    own = (PACKAGE / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", own)
    assert linked
    assert "](" not in re.sub(r"\]\(https?:", "", described)
    assert [words for words in linked if words not in described] == []


@pytest.mark.parametrize("dbt_core", ["1.10", "1.12"])
def test_a_project_installs_registers_scores_and_tests_with_nothing_of_the_reference_project(
    tmp_path: Path, wheel: Path, dbt_core: str
) -> None:
    environment = Environment(tmp_path, wheel=wheel, dbt_core=dbt_core)
    project = tmp_path / "acme"
    for path, text in {
        "dbt_project.yml": PROJECT,
        "profiles.yml": PROFILE,
        "packages.yml": yaml.safe_dump({"packages": [{"local": str(PACKAGE)}]}),
        "seeds/seeds.yml": SEEDS,
        "models/customer_features.sql": FEATURES,
        "models/gain_current.sql": CURRENT,
        "python_models/gain_predictions.py": SCORES,
        "python_models/gain.yml": TESTS,
    }.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    (tmp_path / "gain.onnx").write_bytes(line_model())

    def in_project(command: str, *arguments: str) -> str:
        return run(environment.bin / command, *arguments, folder=project)

    in_project(
        "dbt-onnx", "register", "../gain.onnx", "--name", "gain", "--version", "1",
        "--features", "a,b", "--output", "y=gain", "--alias", "champion",
    )  # fmt: skip
    in_project("dbt-onnx", "verify")
    in_project("dbt", "deps")

    # --warn-error makes every dbt warning an error, for example one about an unused configuration
    dry = in_project("dbt", "--warn-error", "build", "--empty")
    assert "gain/1: scored 0, unchanged 0" in dry
    assert "PASS=6 WARN=0 ERROR=0 SKIP=0" in dry
    first = in_project("dbt", "--warn-error", "build")
    assert "gain/1: scored 1,000 (new 1,000), unchanged 0" in first
    assert f"Running with dbt={dbt_core}." in first
    assert "PASS=6 WARN=0 ERROR=0 SKIP=0" in first
    second = in_project("dbt", "--warn-error", "build")
    assert "gain/1: scored 0, unchanged 1,000" in second
    for printed in (first, second, (project / "logs" / "dbt.log").read_text()):
        assert "Traceback" not in printed
    listed = in_project("dbt", "--quiet", "ls").split()
    assert set(listed) == NODES

    count = "select count(*), count(*) filter (where round(gain * 2) / 2 = "
    count += "substring(customer_id, 2)::integer - 0.5) from gain_current"
    printed = in_project(
        "python",
        "-c",
        f"import duckdb; print(duckdb.connect('acme.duckdb').sql({count!r}).fetchall())",
    )
    assert printed.strip() == "[(1000, 1000)]"

    in_project("python", "-W", "error", "-c", LIGHT)
    assert in_project("python", "-c", UNTRAINABLE) == (
        "ConfigError export() needs scikit-learn and skl2onnx\n"
        "Hint: pip install 'dbt-onnx[export]'\n"
    )
