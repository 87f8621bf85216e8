"""A cache of facts about a dbt project, so that commands need not run dbt while nothing has changed.

dbt takes seconds to read a project, and `status`, `runs` and `history` need only a few facts from it.
A file stores them with a fingerprint of everything that dbt reads: files, environment, options and
versions. While the fingerprint stays the same, dbt is not even imported. In case of doubt nothing is
cached, and dbt runs.

The file contains SQL that is executed. It is therefore stored in the user's cache folder, not in the
project, where others may have write access, and is ignored if somebody else may have written it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# nothing is cached if a file has changed less than this before dbt began, or since: dbt may have read the old
# content, while the fingerprint is of the new one. Some file systems store times in whole seconds
SETTLED_SECONDS = 2
_MAX_BYTES = 2**26
_MAX_FILES = 50  # the oldest are removed: their projects may be gone
_MAX_RENDERED = 8

_TEXTS = {".sql", ".py", ".yml", ".yaml", ".md", ".jinja", ".jinja2", ".j2"}
_ENV_VAR = re.compile(rb"""env_var\s*\(\s*(['"])(\w+)\1\s*[,)]""")
_INTERNAL = {"dbt", "dbt_duckdb"}


class ProjectOptions(NamedTuple):
    """The project, and the options with which dbt reads it."""

    root: Path
    profiles_dir: Path
    target: str | None
    variables: Mapping[str, Any]


@dataclass(kw_only=True)
class CachedProject:
    """The cached facts about a project, as JSON types. `place` is the path of the cache file.

    reads        the folders that dbt reads
    fingerprint  digest of their content, the options, the environment and the installed versions
    adapter      the type of dbt's adapter
    opening      what the engine needs to open the warehouse without dbt
    models       the scoring models
    rendered     {template: the SQL that dbt rendered, and digests of the results of its macros' queries}
    verified     the versions with verified artifacts, each with the digests of its files
    """

    place: Path
    reads: dict[str, list[str]]
    fingerprint: str
    adapter: str
    opening: dict[str, Any]
    models: list[dict[str, Any]]
    rendered: dict[str, dict[str, Any]] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)

    def keep_rendered(self, template: str, *, answers: dict[str, str], sql: str) -> None:
        others = [item for item in self.rendered.items() if item[0] != template]
        kept = {"answers": answers, "sql": sql}
        self.rendered = dict([*others, (template, kept)][-_MAX_RENDERED:])
        self.save()

    def keep_verified(self, version: str) -> None:
        self.verified.append(version)
        self.save()

    def save(self) -> None:
        """Write the file. Do nothing if that fails, or if JSON would not preserve the content."""
        content = asdict(self)
        folder = content.pop("place").parent
        with suppress(OSError, TypeError, ValueError):
            text = json.dumps(content)
            if json.loads(text) != content:
                return
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as stream:  # mode 0600
                stream.write(f"{_digest(text.encode())}\n{text}")
            Path(stream.name).replace(self.place)
            newest = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in newest[:-_MAX_FILES]:
                path.unlink()


def read_cache(options: ProjectOptions) -> CachedProject | None:
    """Return the cached facts; None if there are none, or if anything that dbt reads has changed."""
    place = _cache_path(options)
    content = place and _read(place)
    if not place or not content:
        return None
    cached = CachedProject(place=place, **content)
    return cached if cached.fingerprint == _fingerprint(cached.reads, options)[0] else None


def write_cache(
    options: ProjectOptions,
    config: Any,
    models: list[dict[str, Any]],
    *,
    opening: dict[str, Any] | None,
    began: float,
    before: CachedProject | None,
) -> CachedProject | None:
    """Cache facts that dbt has just found, and return them; None if they cannot be cached.

    `config` is dbt's config of the project. `opening` is as in `CachedProject`, or None if only dbt can
    open the warehouse. `began` is the time when dbt began to read. `before` is the result of `read_cache`.
    """
    place = _cache_path(options)
    if place is None or opening is None:
        return None
    projects = [p for name, p in config.load_dependencies().items() if name not in _INTERNAL]
    walked = {
        str(Path(project.project_root, folder))
        for project in projects
        for name, folders in vars(project).items()
        if name.endswith("_paths") and isinstance(folders, list)
        for folder in folders
    }
    reads = {
        "walked": sorted(walked),
        "projects": sorted(str(project.project_root) for project in projects),
        "packages": [str(Path(config.project_root, config.packages_install_path))],
    }
    fingerprint, changed = _fingerprint(reads, options)
    if changed > began - SETTLED_SECONDS:
        return None
    if before is not None and before.fingerprint == fingerprint:
        return before
    cached = CachedProject(
        place=place,
        reads=reads,
        fingerprint=fingerprint,
        adapter=config.credentials.type,
        opening=opening,
        models=models,
    )
    cached.save()
    return cached


def overrides_no_macros(manifest: Any, config: Any) -> bool:
    """Return whether the project overrides no macro of dbt_onnx or dbt: an override could render a
    different text each time. Macros such as `generate_schema_name` may be overridden: rendering does not
    call them.

    The check ignores which macros depend on which, since dbt's partial parsing may leave that outdated.
    """
    given, own = set(), set()
    for macro in manifest.macros.values():
        name = macro.name.removeprefix("default__").removeprefix("duckdb__")
        if macro.package_name in {"dbt_onnx", *_INTERNAL}:
            given.add(name)
        elif macro.package_name == config.project_name and not name.startswith("generate_"):
            own.add(name)
    orders = {entry["macro_namespace"] for entry in config.dispatch}
    return not own & given and not orders & {"dbt_onnx", "dbt"}


def _cache_path(options: ProjectOptions) -> Path | None:
    """Return the path of the cache file; None where nothing can be cached. Each version of dbt_onnx has
    its own file, but all values of `variables` share one: a clock among them may change every day.
    """
    if not hasattr(os, "geteuid"):  # Windows, where the owner check of `_read` does not work
        return None
    name = _digest(repr((__version__, *options[:3])).encode())[:32]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # there is no home directory
        return None
    return cache / "dbt_onnx" / f"{name}.json" if cache.is_absolute() else None


def _read(place: Path) -> dict[str, Any] | None:
    """Return the file's content; None unless only this user has access to it, and its digest is right."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            if not is_own or not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                return None
            digest, _, text = stream.read().partition(b"\n")
    except OSError:
        return None
    return dict(json.loads(text)) if digest.decode("ascii", "replace") == _digest(text) else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fingerprint(reads: Mapping[str, list[str]], options: ProjectOptions) -> tuple[str, float]:
    """Return the fingerprint, and the time of the latest change of a file or folder."""
    seen: list[Any] = [__version__, sys.version, os.uname()[2:], _installed(), reads, *options[:3]]
    seen += sorted(map(repr, options.variables.items()))
    changed, variables = 0.0, {name for name in os.environ if name.startswith("DBT_")}
    for path in (*_paths(reads), options.profiles_dir / "profiles.yml"):
        state: Any = None
        with suppress(OSError):
            status = path.stat()
            changed = max(changed, status.st_ctime)
            state = stat.S_IFMT(status.st_mode)
            if stat.S_ISREG(status.st_mode) and path.suffix in _TEXTS:
                text = path.read_bytes()
                state = _digest(text)
                names = [match[2].decode() for match in _ENV_VAR.finditer(text)]
                # a name that is not a literal may be any variable: then all of them count
                variables.update(names if len(names) == text.count(b"env_var") else os.environ)
            elif stat.S_ISREG(status.st_mode):
                # a seed may be large, so it is not read: its `ctime` changes with its content
                state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        seen.append((str(path), state))
    seen.append(sorted((name, os.environ.get(name)) for name in variables))
    return _digest(repr(seen).encode()), changed


def _paths(reads: Mapping[str, list[str]]) -> Iterator[Path]:
    for walked in reads["walked"]:
        for folder, below, names in os.walk(walked):  # does not follow links, like dbt
            below.sort()
            yield from map(Path(folder).joinpath, ("", *sorted(names)))
    for folder in filter(os.path.isdir, reads["projects"]):
        for path in sorted(Path(folder).iterdir()):
            if path.name == ".dbtignore" or re.fullmatch(r"[^.].*\.ya?ml", path.name):
                yield path
    for folder in filter(os.path.isdir, reads["packages"]):
        yield from sorted(Path(folder).iterdir())


def _installed() -> list[str]:
    """Return the names of all installed distributions, with their versions."""
    folders = [Path(folder) for folder in sys.path if Path(folder).is_dir()]
    return sorted(path.name for folder in folders for path in folder.glob("*.dist-info"))
