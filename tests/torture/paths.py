"""Registry and paths: hostile rows, paths that are no regular files, and files that change while they are read."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import stat
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from tests.torture import processes
from tests.torture.report import Attack
from warehouse import Warehouse, line_model

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.card import CARD_NAME
from dbt_onnx.artifacts.registry import REGISTRY_COLUMNS, Registry
from dbt_onnx.cli import main
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMISE = "Registry and paths"
PLACE = "line/1/model.onnx"
MODEL = f"project/artifacts/{PLACE}"
SECRET = b"not for you"
SECONDS, MAX_BYTES = 20, 6 * 2**30

_OUTSIDE = (
    "..", "../x", "../outside/secret", "../../etc/passwd", "line/..", "line/../../outside/secret",
    "line/1/../1/model.onnx", "artifacts/../line/1/model.onnx", "artifacts/../../x", "./line/1/model.onnx",
    "line/./1/model.onnx", ".", "...", ".hidden", "/", "//", "/etc/passwd", "//host/share/x",
    "/line/1/model.onnx", "/dev/zero", "/dev/stdin", "/dev/fd/0", "/proc/self/mem", "/proc/self/environ",
    "C:\\x", "C:/x", "c:x", "\\\\host\\share\\x", "\\\\?\\C:\\x", "\\\\.\\pipe\\x", "..\\x", "\\x",
    "line\\1\\model.onnx", "line/1\\..\\model.onnx", "line/1/model.onnx::$DATA", "file:///etc/passwd",
    "file:x", "http://host/x", "s3://bucket/x", "line//1/model.onnx", "line/1/model.onnx/",
    "line/1/model.onnx/..", "line/ /model.onnx", "line/1 /model.onnx", "line/1./../x",
)  # fmt: skip
_TEXT = (
    "\x00", "line/1/model.onnx\x00", "line/1/model.onnx\x00.txt", "line/1/mo\ndel.onnx", "x\r\ny,z", "a\tb",
    "\x1b[2J", "line/1/model.onnx\u202e", "line/\u200b1/model.onnx", "\ufeff\ufeffx", "\uff0e\uff0e/x",
    "\u2024\u2024/x", "\u2025/x", "line\u22151\u2215model.onnx", "line\u20441", "line\uff0f1\uff0fmodel.onnx",
    "line/\uff11/model.onnx", "l\u0131ne/1/model.onnx", "line/1/m\u043edel.onnx", "e\u0301/x", "客户/x", "🦆",
    "a" * 129, "a" * 5_000, "a/" * 3_000 + "x", "..%2f..%2fx", "%2e%2e/x", "..%00/x", "..;/x", "line/1/*",
    "line/?/model.onnx", "line/[1]/model.onnx", "{line}/x",
)  # fmt: skip
_COMMANDS = (
    "~", "~root/x", "$HOME/x", "${HOME}", "$(touch owned)", "`touch owned`", "x; touch owned", "x && touch owned",
    "x | touch owned", "> owned", "< /etc/passwd", "-rf", "--help", "!x", "#x", "x'y", 'x"y', "x\\",
    "x'; drop table canary; --", 'x"; drop table canary; --', "x' or '1'='1", "x'); delete from scores; --",
    "1; attach 'owned'", "'||(select 1)||'", "/* x */", "$1", "?", ":x", "%s", "{0}", "{{ 1 / 0 }}", "{% raw %}",
    "=cmd|'/c calc'!A1", "@x", "+x", "a,b", "a b", "*",
)  # fmt: skip
HOSTILE = (*_OUTSIDE, *_TEXT, *_COMMANDS)
"""Texts that are no valid model, version, alias, path or sha256."""

ABSENT = (
    "LINE/1/model.onnx", "line/1/MODEL.ONNX", "line/1/model.onnx.", "line/1./model.onnx", "line/1/CON",
    "line/1/model.onnx/x", "line/2/model.onnx", "model.onnx", "line",
)  # fmt: skip
"""Safe paths that lead to no file, or to a folder."""


def measure(folder: Path, *, every: int) -> Iterator[Attack]:
    """Attack with every `every`th text, file and race; each race is tried 1,000 / `every` times."""
    place = _Place(folder / "place")
    try:
        yield _controls(place)
        yield _rows(place, HOSTILE[::every], REGISTRY_COLUMNS, (*WAYS, *WRITERS))
        yield _rows(place, ABSENT, ("artifact",), WAYS)
        yield _arguments(place, HOSTILE[::every])
        yield _files(place, every)
        yield from _races(place, 1_000 // every)
    finally:
        place.warehouse.connection.close()


class _Place:
    """A project with one model, which has one row in the registry's table and seed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.project, self.outside = folder, folder / "project", folder / "outside"
        self.project.mkdir()
        self.outside.mkdir()
        self.warehouse = Warehouse(self.project)
        self.warehouse.sql("create table canary as select 7 as x")
        self.model = self.warehouse.register("1")
        self.warehouse.features((1, 1.0, 2.0))
        self.row = dict(zip(REGISTRY_COLUMNS, self._table()[0], strict=True))
        self.seed = self.project / "seeds/model_registry.csv"
        self.seed.parent.mkdir()
        # a different model, and other bytes
        (self.outside / "secret").write_bytes(SECRET)
        (self.outside / "model.onnx").write_bytes(line_model(5.0))
        shutil.copy(self.model.parent / CARD_NAME, self.outside)
        self.secrets = [hashlib.sha256(item).hexdigest() for item in (SECRET, line_model(5.0))]
        shutil.copytree(self.model.parent, self.folder / "kept")
        self.say()
        self.before = self.listed()

    def _table(self) -> list[tuple[Any, ...]]:
        return self.warehouse.sql("select * from model_registry")

    def say(self, **changes: str) -> None:
        """Write the row with these changes into the registry's table and seed."""
        row = {**self.row, **changes}
        self.warehouse.connection.cursor().execute(
            "update model_registry set model_name = $model_name, model_version = $model_version, "
            "alias = $alias, artifact = $artifact, sha256 = $sha256",
            row,
        )
        # a rollback needs a target that is not champion
        row = {**self.row, "alias": "", **changes}
        with self.seed.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, REGISTRY_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerow(row)

    def listed(self) -> dict[str, Any]:
        """Return mode, size and first bytes of every file except the warehouse and the seed."""
        found: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            status = path.lstat()
            if not path.name.startswith("w.duckdb") and path != self.seed:
                found[str(path)] = status.st_mode, status.st_size
                if stat.S_ISREG(status.st_mode):
                    with path.open("rb") as stream:
                        found[str(path)] += (stream.read(10_000),)
        return found

    def written(self) -> int:
        """Return the number of predictions in the ledger; 0 if there is no ledger."""
        tables = [name for (name,) in self.warehouse.sql("select table_name from duckdb_tables()")]
        assert "canary" in tables, "the canary is gone"
        return (
            self.warehouse.sql("select count(*) from scores")[0][0]
            if "scores__current" in tables
            else 0
        )


# --- ways to reach the reader -----------------------------------------------------------------


def a_run(place: _Place) -> str:
    """A scoring run. Returns its error message if it is refused; '' if it scores."""
    try:
        place.warehouse.run()
    except DbtOnnxError as error:
        return str(error)
    return ""


def _command(place: _Place, arguments: tuple[str, ...]) -> str:
    """Run a command. Returns its output if it is refused; '' if it succeeds."""
    options = ["--project-dir", str(place.project)]
    said = CliRunner(env={"COLUMNS": "20000"}).invoke(main, [*arguments, *options])
    if said.exception is not None and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said.output if said.exit_code else ""


def verify(place: _Place) -> str:
    return _command(place, ("verify",))


def rollback(place: _Place) -> str:
    return _command(place, ("rollback", "line", "--to=1", "--reason=x"))


def promote(place: _Place) -> str:
    return _command(place, ("promote", "line/1"))


def register(place: _Place) -> str:
    file = str(place.outside / "model.onnx")
    return _command(place, ("register", file, "--name=other", "--version=1", "--features=a,b"))


WAYS: tuple[Callable[[_Place], str], ...] = (a_run, verify, rollback)
WRITERS = (promote, register)


# --- attacks ----------------------------------------------------------------------------------


def _harm(
    place: _Place, act: Callable[[_Place], str], what: str, *, names: tuple[str, ...]
) -> str | None:
    """Make an attack that must be refused. Returns the harm it did, None if it did none. The error
    must contain one of `names`.
    """
    seed, what = _read(place.seed), f"{what:.60} by {getattr(act, '__name__', 'command')}"
    rows = place.written()
    try:
        with _limited(), _watched(place) as opened:
            said = act(place)
    except (Exception, Hung) as error:  # noqa: BLE001, any other exception is a failure
        return f"{what}: {type(error).__name__}: {error}"
    if not said:
        return f"{what}: not refused"
    if opened:
        return f"{what}: read {opened}"
    if "hard link" not in what and any(secret in said for secret in place.secrets):
        return f"{what}: tells the sha256 of a file outside: {said}"
    if not any(name in said for name in names):
        return f"{what}: names neither row nor path: {said}"
    if "Hint" not in said and "hint" not in said:
        return f"{what}: no hint in {said}"
    if place.written() != rows or _read(place.seed) != seed or place.listed() != place.before:
        return f"{what}: something was written"
    return None


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


class Hung(BaseException):
    """Raised by the alarm. A BaseException, so that no code mistakes it for an error of the file."""


@contextmanager
def _limited() -> Iterator[None]:
    """Raise Hung in a block that takes too long, and MemoryError in one that reads without end."""

    def stop(*_: object) -> None:
        raise Hung(f"for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


_OPENED: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED is not None and isinstance(arguments[0], str | bytes):
        _OPENED.append(os.fsdecode(arguments[0]))


@contextmanager
def _watched(place: _Place) -> Iterator[list[str]]:
    """Yield a list that at the end of the block holds the outside files Python has opened in it."""
    global _OPENED  # noqa: PLW0603, an audit hook cannot be removed
    if _OPENED is None:
        sys.addaudithook(_hook)
    _OPENED, found = [], []
    outside = (
        "/etc/passwd", "/dev/", "/proc/self/mem", "/proc/self/environ", f"/proc/{os.getpid()}/mem",
        str(place.outside / "secret"),
    )  # fmt: skip
    try:
        yield found
    finally:
        for path in _OPENED:
            found += [p for p in (path, os.path.realpath(path)) if p.startswith(outside)]
        _OPENED = []


def _rows(
    place: _Place,
    texts: tuple[str, ...],
    columns: tuple[str, ...],
    ways: tuple[Callable[[_Place], str], ...],
) -> Attack:
    what = "hostile texts in each column" if texts is not ABSENT else "paths that lead to no file"
    attack = Attack(PROMISE, f"rows with {what}: {', '.join(act.__name__ for act in ways)}")
    for column in columns:
        for text in texts:
            place.say(**{column: text})
            names = ("row 1: ",) if texts is not ABSENT else (text,)
            for act in ways:
                attack.made(harm=_harm(place, act, f"{column} {text!r}", names=names))
    place.say()
    return attack


def _arguments(place: _Place, texts: tuple[str, ...]) -> Attack:
    """Pass each text as a name to the commands: no row and no file is written."""
    attack = Attack(PROMISE, "the same texts as arguments of register, promote and rollback")
    file = str(place.outside / "model.onnx")
    for text in texts:
        for call in (
            ("register", file, f"--name={text}", "--version=1", "--features=a,b"),
            ("register", file, "--name=new", f"--version={text}", "--features=a,b"),
            ("register", file, "--name=new", "--version=1", f"--alias={text}", "--features=a,b"),
            ("promote", f"line/{text}"),
            ("rollback", "line", f"--to={text}", "--reason=x"),
        ):
            act = partial(_command, arguments=call)
            names = ("is not valid: ", "does not name a model", text)
            attack.made(harm=_harm(place, act, f"{call[0]} {text!r}", names=names))
    return attack


# --- paths that are no regular files ----------------------------------------------------------


def _device(path: Path, minor: int) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, minor))


def _socket(path: Path) -> None:
    # relative, since the path of a socket may have only about 100 characters
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**40)


FILES: dict[str, Callable[[Path, _Place], Any]] = {
    "link to a file outside": lambda path, place: path.symlink_to(place.outside / "secret"),
    "relative link": lambda path, place: path.symlink_to("../../../../outside/secret"),
    "link to the file itself": lambda path, place: path.symlink_to(place.folder / "kept"),
    "link to itself": lambda path, place: path.symlink_to(path),
    "link to nothing": lambda path, place: path.symlink_to(place.outside / "nothing"),
    "link to /dev/zero": lambda path, place: path.symlink_to("/dev/zero"),
    "link to /dev/stdin": lambda path, place: path.symlink_to("/dev/stdin"),
    "link to /proc/self/mem": lambda path, place: path.symlink_to("/proc/self/mem"),
    "link to /etc/passwd": lambda path, place: path.symlink_to("/etc/passwd"),
    "hard link to other bytes": lambda path, place: path.hardlink_to(place.outside / "model.onnx"),
    "named pipe": lambda path, place: os.mkfifo(path),
    "socket": lambda path, place: _socket(path),
    "device zero": lambda path, place: _device(path, 5),
    "device mem": lambda path, place: _device(path, 1),
    "folder": lambda path, place: path.mkdir(),
    "file of a tebibyte": lambda path, place: _sparse(path),
    "no file": lambda path, place: None,
}
"""Name -> function that puts this kind of thing in the place of a file."""

SEEDS = ("link to /dev/zero", "named pipe", "device zero", "folder", "socket")
"""Kinds that the seed must not be. The seed may be a link to a file, but nothing that blocks or has no end."""


def _controls(place: _Place) -> Attack:
    """Valid variants that must be accepted, so that the refusals prove something."""
    attack = Attack(
        PROMISE, "controls: the file itself, blanks around its path, a link to its bytes"
    )
    for path in (PLACE, f"  {PLACE} "):
        place.say(artifact=path)
        for act in (a_run, verify):
            attack.made(harm=act(place) or None)
    with _exchanged(place.model):
        place.model.hardlink_to(place.folder / "kept/model.onnx")
        for act in (a_run, verify):
            attack.made(harm=act(place) or None)
    place.say()
    place.before = place.listed()
    kept = place.seed.read_bytes()
    for act in (rollback, register):
        attack.made(harm=act(place) or None)
        place.seed.write_bytes(kept)
    place.seed.with_name("model_promotions.csv").unlink()
    shutil.rmtree(place.warehouse.artifacts / "other")
    return attack


@contextmanager
def _exchanged(path: Path) -> Iterator[None]:
    """Free the path inside the block, and put the original file back afterwards."""
    kept = path.with_name(f"{path.name}-kept")
    path.rename(kept)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        kept.rename(path)


def _files(place: _Place, every: int) -> Attack:
    attack = Attack(
        PROMISE, "links, pipes, sockets, devices, folders for model, card, folder, seed"
    )
    model, card, seed = place.model, place.model.parent / CARD_NAME, place.seed
    history = seed.with_name("model_promotions.csv")
    history.write_text("")
    tried = [(path, kind, WAYS) for path in (model, card) for kind in FILES]
    tried += [(path, kind, WAYS) for path in (model.parent, model.parent.parent) for kind in FILES]
    tried += [(seed, kind, (verify, rollback, *WRITERS)) for kind in SEEDS]
    tried += [(history, kind, (rollback,)) for kind in SEEDS]
    for path, kind, ways in tried[::every]:
        with _exchanged(path):
            try:
                FILES[kind](path, place)
            except PermissionError:
                continue  # only root may create devices
            before, place.before = place.before, place.listed()
            for act in ways:
                what = f"{kind} as {path.name}"
                attack.made(harm=_harm(place, act, what, names=(str(path),)))
            place.before = before
    history.unlink()
    return attack


# --- races ------------------------------------------------------------------------------------


def _file_and_link(folder: Path) -> None:
    _swapped(folder, lambda path: path.symlink_to(folder / "outside/model.onnx"))


def _file_and_other(folder: Path) -> None:
    _swapped(folder, lambda path: path.write_bytes(line_model(7.0)))


def _file_and_pipe(folder: Path) -> None:
    _swapped(folder, os.mkfifo)


def _file_and_nothing(folder: Path) -> None:
    model = folder / MODEL
    model.rename(folder / "aside")
    _pause()
    (folder / "aside").rename(model)


def _rewritten(folder: Path) -> None:
    """Rewrite the file in place, so that a reader may get half of each content."""
    for content in (line_model(7.0), line_model()):
        with (folder / MODEL).open("r+b", buffering=0) as stream:
            stream.write(content[:150])
            stream.write(content[150:])
        _pause()


def _swapped(folder: Path, put: Callable[[Path], Any]) -> None:
    """Atomically replace the model with something else, then put the model back."""
    other, aside = folder / "other", folder / "aside"
    put(other)
    aside.hardlink_to(folder / MODEL)
    other.replace(folder / MODEL)
    _pause()
    aside.replace(folder / MODEL)


def _folder_and_link(folder: Path) -> None:
    version = (folder / MODEL).parent
    version.rename(folder / "aside")
    version.symlink_to(folder / "outside")
    _pause()
    version.unlink()
    (folder / "aside").rename(version)


def _pause() -> None:
    time.sleep(random.uniform(0, 0.0003))


RACES = (
    _file_and_link, _file_and_other, _file_and_pipe, _file_and_nothing, _rewritten, _folder_and_link,
)  # fmt: skip


def _swap_on(swap: Callable[[Path], None], folder: Path, stop: Any) -> None:
    """In a child process: exchange the files until `stop` is set."""
    while not stop.is_set():
        swap(folder)
        _pause()


@contextmanager
def _racing(swap: Callable[[Path], None], folder: Path) -> Iterator[None]:
    """Let another process exchange the files while the block reads them."""
    context = processes._CONTEXT
    stop = context.Event()
    process = context.Process(target=_swap_on, args=(swap, folder, stop))
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(SECONDS)


def _races(place: _Place, tries: int) -> Iterator[Attack]:
    """Whatever is at the path at any moment, a reader gets the registered bytes or a refusal."""
    loads = Attack(PROMISE, f"the file is exchanged while it is read, {len(RACES)} ways")
    runs = Attack(PROMISE, "the same while whole runs score")
    for swap in RACES:
        outcomes: Counter[str] = Counter()
        with _racing(swap, place.folder):
            for made in range(40 * tries):
                if made >= tries and len(outcomes) > 1:
                    break
                harm = _raced(place, outcomes)
                loads.made(harm=harm and f"{swap.__name__}: {harm}")
            for _ in range(max(1, tries // 50)):
                with suppress(DbtOnnxError):
                    place.warehouse.run(full_refresh=True)
                said = place.warehouse.sql("select distinct y from scores")
                runs.made(harm=None if said == [(0.5,)] else f"{swap.__name__}: scored {said}")
        if set(outcomes) != {"read", "refused"}:
            loads.harm.append(f"{swap.__name__}: no race was met, all {outcomes}")
    yield from (loads, runs)


def _raced(place: _Place, outcomes: Counter[str]) -> str | None:
    entry = Registry.from_csv(place.seed).resolve("line/1")
    try:
        with _limited():
            artifact = load_artifact(place.warehouse.artifacts, entry)
    except DbtOnnxError as error:
        outcomes["refused"] += 1
        if any(secret in str(error) for secret in place.secrets):
            return f"a file outside was read: {error}"
        return None
    except (Exception, Hung) as error:  # noqa: BLE001, any other exception is a failure
        return f"{type(error).__name__}: {error}"
    outcomes["read"] += 1
    found = hashlib.sha256(artifact.model_bytes).hexdigest()
    return None if found == place.row["sha256"] else "other bytes were taken"
