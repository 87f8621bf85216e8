"""`dbt deps` installs the dbt half from a tag of a Git repository and from a tarball, without the network."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from consumer import PACKAGE
from scoring_project import ScoringProject

from dbt_onnx import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAG = f"v{__version__}"


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A copy of what dbt needs of the package."""
    folder = tmp_path / "dbt_onnx"
    shutil.copytree(PACKAGE / "macros", folder / "macros")
    shutil.copy(PACKAGE / "dbt_project.yml", folder)
    return folder


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send everything that leaves this machine to a port that nothing listens on."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of an HTTP server of the files in the test's folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def installed_and_built(root: Path, package: dict[str, Any]) -> str:
    """Install the package in a project, build its scoring model, and return dbt's message about it."""
    project = ScoringProject(root)
    project.facts(5)
    project.scoring_model("scores")
    project.write_yaml("packages.yml", {"packages": [package]})
    outcome = project.dbt("deps")
    assert outcome.success, outcome.error + outcome.log
    folder = root / "dbt_packages" / "dbt_onnx"
    assert not folder.is_symlink()
    assert f"version: {__version__}\n" in (folder / "dbt_project.yml").read_text()
    return project.dbt("build").nodes["scores"].message


def test_a_tag_of_a_git_repository_is_installed_and_scores(tmp_path: Path, half: Path) -> None:
    git(half, "init", "--quiet")
    git(half, "add", "--all")
    git(half, "commit", "--quiet", "--message", "released")
    git(half, "tag", TAG)
    # the tag decides, not the newest commit, which is no package at all
    git(half, "rm", "--quiet", "-r", "macros")
    git(half, "commit", "--quiet", "--message", "later")
    git(tmp_path, "clone", "--quiet", "--bare", str(half), "dbt_onnx.git")
    package = {"git": f"file://{tmp_path}/dbt_onnx.git", "revision": TAG}
    message = installed_and_built(tmp_path / "shop", package)
    assert message == "line/1: scored 5 (new 5), unchanged 0"


def test_a_tarball_is_installed_and_scores(tmp_path: Path, half: Path, address: str) -> None:
    with tarfile.open(tmp_path / "dbt_onnx.tar.gz", "w:gz") as archive:
        archive.add(half, "dbt_onnx")
    package = {"tarball": f"{address}/dbt_onnx.tar.gz", "name": "dbt_onnx"}
    message = installed_and_built(tmp_path / "shop", package)
    assert message == "line/1: scored 5 (new 5), unchanged 0"
