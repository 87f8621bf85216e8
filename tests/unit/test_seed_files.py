"""Commands change one thing in a seed, one command at a time, and leave the rest unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from dbt_onnx.artifacts.registry import CHAMPION, Registry, RegistryEntry
from dbt_onnx.artifacts.registry_file import add_entry, exchange_aliases, put_entry
from dbt_onnx.artifacts.seed_files import SeedFile, locked
from dbt_onnx.errors import RegistryError

if TYPE_CHECKING:
    from pathlib import Path

SHA = "0123456789abcdef" * 4
HEADER = "model_name,model_version,alias,artifact,sha256"


def entry(version: str, alias: str | None = None, *, name: str = "m") -> RegistryEntry:
    return RegistryEntry(
        model_name=name,
        model_version=version,
        alias=alias,
        artifact=f"{name}/{version}/model.onnx",
        sha256=SHA,
    )


def line(version: str, alias: str = "", *, name: str = "m") -> str:
    return f"{name},{version},{alias},{name}/{version}/model.onnx,{SHA}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seeds" / "model_registry.csv"


def written(path: Path, *lines: str, newline: str = "\n", bom: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((bom + newline.join([*lines, ""])).encode())
    return path


def test_versions_registered_at_the_same_time_all_get_their_row(path: Path) -> None:
    versions = [str(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda version: add_entry(path, entry(version)), versions))
    assert sorted(item.model_version for item in Registry.from_csv(path).entries) == sorted(
        versions
    )
    # the lock file is gone
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_processes_that_register_at_the_same_time_all_get_their_row(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dbt_onnx.artifacts.registry import RegistryEntry; "
        "from dbt_onnx.artifacts.registry_file import add_entry\n"
        "input()\n"
        "for number in range(25):\n"
        "    version = f'{sys.argv[2]}.{number}'\n"
        "    add_entry(Path(sys.argv[1]), RegistryEntry(model_name='m', model_version=version, "
        f"alias=None, artifact=f'm/{{version}}/model.onnx', sha256={SHA!r}))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, path, number], stdin=subprocess.PIPE)
        for number in ("1", "2")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0]
    assert len(Registry.from_csv(path).entries) == 50


def test_two_that_want_the_same_alias_at_the_same_time_do_not_both_get_it(path: Path) -> None:
    def attempt(version: str) -> bool:
        try:
            add_entry(path, entry(version, CHAMPION))
        except RegistryError as error:
            assert "alias 'champion' of model 'm' belongs to version" in error.message
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, "12345678")) == [False] * 7 + [True]
    assert len(Registry.from_csv(path).entries) == 1


def test_a_lock_that_is_not_given_back_is_said_and_leaves_the_file(path: Path) -> None:
    written(path, HEADER, line("1"))
    with (
        locked(path.parent),
        pytest.raises(RegistryError, match=r"for more than 0\.1 seconds"),
        locked(path.parent, wait_seconds=0.1),
    ):
        raise AssertionError
    with locked(path.parent, wait_seconds=0):
        pass
    assert path.read_text() == f"{HEADER}\n{line('1')}\n"


def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    path.parent.mkdir()
    program = (
        "import sys, os, signal; from pathlib import Path; from dbt_onnx.artifacts.seed_files import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program, path.parent], check=False).returncode == -9
    )
    with locked(path.parent, wait_seconds=0):
        pass


@pytest.mark.parametrize(("newline", "bom"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff")])
def test_an_exchange_of_aliases_changes_two_cells_and_nothing_else(
    path: Path, newline: str, bom: str
) -> None:
    lines = [
        f"owner,{HEADER},note",
        f'"Ann, Bob",{line("1", " champion ")},"said ""no"""',
        "",
        f"ada,{line('2', 'challenger')}",
        f"ada,{line('1', 'champion', name='other')},,more,than,the,header",
    ]
    written(path, *lines, newline=newline, bom=bom)
    registry = Registry.from_csv(path)
    exchange_aliases(path, registry.resolve("m/2"), registry.resolve("m/1"))
    lines[1] = lines[1].replace(" champion ", "challenger")
    lines[3] = lines[3].replace("challenger", "champion")
    assert path.read_bytes().decode() == bom + newline.join([*lines, ""])


def test_the_replaced_version_has_no_alias_when_the_promoted_one_had_none(path: Path) -> None:
    written(path, HEADER, line("1", "champion"), line("2"))
    exchange_aliases(path, entry("2"), entry("1", CHAMPION))
    assert path.read_text() == f"{HEADER}\n{line('1')}\n{line('2', 'champion')}\n"


def test_a_first_champion_takes_nobodys_alias(path: Path) -> None:
    written(path, HEADER, line("1", "challenger"), line("2"))
    exchange_aliases(path, entry("1", "challenger"), None)
    assert path.read_text() == f"{HEADER}\n{line('1', 'champion')}\n{line('2')}\n"


def test_an_alias_with_blanks_around_it_leaves_who_had_it(path: Path) -> None:
    written(path, HEADER, line("1", " champion"))
    add_entry(path, entry("2", CHAMPION), move_alias=True)
    assert Registry.from_csv(path).resolve("m").model_version == "2"
    put_entry(path, entry("1", CHAMPION))
    assert Registry.from_csv(path).resolve("m").model_version == "1"


def test_a_row_shorter_than_the_header_is_filled_up(path: Path) -> None:
    seed = SeedFile(path, ("a", "b", "c"), [["1"]])
    assert seed.value(seed.rows[0], "c") == ""
    seed.change(seed.rows[0], c="3")
    assert seed.content() == b"a,b,c\n1,,3\n"


def test_a_folder_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "seeds").write_text("a file")
    with pytest.raises(RegistryError, match="cannot be written"):
        add_entry(tmp_path / "seeds" / "model_registry.csv", entry("1"))


def test_a_failed_write_leaves_the_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, HEADER, line("1"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RegistryError, match="cannot be written: No space left on device"):
        add_entry(path, entry("2"))
    assert path.read_text() == f"{HEADER}\n{line('1')}\n"
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_seed_that_would_be_waited_for_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "seed.csv")
    with pytest.raises(RegistryError, match="it is not a regular file"):
        SeedFile.read(tmp_path / "seed.csv", columns=["a"])
