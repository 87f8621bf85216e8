"""`status`, `runs` and `history` without dbt: the same answers as with dbt, and never an outdated one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import yaml
from click.testing import CliRunner
from scoring_project import ScoringProject

from dbt_onnx.cli import main
from dbt_onnx.project import cache
from dbt_onnx.project.dbt_project import DbtProject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAVY = ("dbt", "jinja2", "onnx", "onnxruntime", "skl2onnx", "sklearn", "pandas")
COMMANDS = (["status", "--json"], ["status", "scores"], ["runs"], ["history", "scores", "3"])
VARIABLES = {"dbt_onnx_clock": "2024-01-10 06:00:00", "other": "1"}
PROFILE = {
    "plugins": [{"module": "dbt_onnx.replay_plugin"}],
    "settings": {"TimeZone": "Asia/Tokyo"},
}
NAMED_BY_VARIABLE = """
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ env_var('TOLD_SCHEMA', target.schema) }}
{%- endmacro %}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(tmp_path_factory.mktemp("cache"), profile=PROFILE)
    project.facts(5)
    project.scoring_model("scores")
    project.scoring_model("risk", alias="risk_ledger")
    project.write("macros/names.sql", NAMED_BY_VARIABLE)
    assert project.dbt("build").success
    return project


@pytest.fixture(autouse=True)
def _settled(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Start with an empty cache and files that count as old; restore the project's files afterwards."""
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -3600)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [path for path in project.root.rglob("*") if path.suffix in {".yml", ".sql", ".py"}]
    before = {path: path.read_bytes() for path in paths if "target" not in path.parts}
    yield
    for path, content in before.items():
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def run(project: ScoringProject, *arguments: str) -> str:
    """Return the output of a command."""
    folders = ["--project-dir", str(project.root), "--profiles-dir", str(project.root)]
    result = CliRunner().invoke(main, [*arguments, *folders], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def asks_dbt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every dbt command adds its name."""
    asked: list[str] = []
    invoke = DbtProject.invoke

    def noting(self: DbtProject, *arguments: str, **options: Any) -> Any:
        asked.append(arguments[0])
        return invoke(self, *arguments, **options)

    monkeypatch.setattr(DbtProject, "invoke", noting)
    return asked


def cache_file() -> Path:
    (path,) = Path(os.environ["XDG_CACHE_HOME"], "dbt_onnx").iterdir()
    return path


def test_what_is_printed_is_the_same_and_dbt_is_not_asked(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asks_dbt(monkeypatch)
    first = {}
    for command in COMMANDS:
        for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
            path.unlink()
        first[*command] = run(project, *command)
    assert asked.count("parse") == len(COMMANDS)
    for command in COMMANDS:
        run(project, *command)
    asked.clear()
    for command in COMMANDS:
        assert run(project, *command) == first[*command]
    assert asked == []
    assert "scores" in first["runs",]
    assert json.loads(first["status", "--json"])["status"] == "healthy"


def test_the_warehouse_is_opened_as_dbt_opens_it(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_profile({"config_options": {"default_order": "desc"}, **PROFILE})
    asked, settings = asks_dbt(monkeypatch), []
    for _ in range(2):
        opened = DbtProject(project.root, profiles_dir=project.root)
        assert [model.name for model in opened.scoring_models()] == ["risk", "scores"]
        with opened.connect() as connection:
            query = "select name, value from duckdb_settings() order by name"
            settings.append(dict(connection.execute(query).fetchall()))
            with pytest.raises(duckdb.InvalidInputException, match="read-only"):
                connection.execute("create table extra (a integer)")
        project.sql("select 1")  # the connection is closed afterwards
    assert asked == ["parse"]
    assert settings[0] == settings[1]
    assert settings[0]["TimeZone"] == "Asia/Tokyo"


def test_nothing_heavy_is_imported(project: ScoringProject) -> None:
    for command in COMMANDS:
        run(project, *command)
    for command in COMMANDS:
        arguments = [*command, "--project-dir", ".", "--profiles-dir", "."]
        program = (
            "import sys; from dbt_onnx.cli import main\n"
            f"try: main({arguments!r})\n"
            f"finally: print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=project.root,
            check=True,
        )
        assert done.stderr.strip() == "[]", command


def edit(path: str) -> Callable[[ScoringProject, pytest.MonkeyPatch], None]:
    def append(project: ScoringProject, _: pytest.MonkeyPatch) -> None:
        target = project.root / path
        comment = "{# #}" if target.suffix == ".sql" else "# changed"
        target.write_text(f"{target.read_text()}\n{comment}\n")

    return append


def edit_keeping_size_and_time(project: ScoringProject, _: pytest.MonkeyPatch) -> None:
    target = project.root / "seeds/model_registry.csv"
    status, text = target.stat(), target.read_text()
    target.write_text(text.replace("line", "lime", 1))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def new_file(path: str) -> Callable[[ScoringProject, pytest.MonkeyPatch], None]:
    def write(project: ScoringProject, _: pytest.MonkeyPatch) -> None:
        project.write(path, "{# nothing #}" if path.endswith(".sql") else "version: 2\n")

    return write


def removed(project: ScoringProject, _: pytest.MonkeyPatch) -> None:
    (project.root / "python_models/risk.yml").unlink()


def variable(name: str) -> Callable[[ScoringProject, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.setenv(name, "main")


def installed(_: ScoringProject, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["XDG_CACHE_HOME"], "installed")
    (folder / "dbt_more-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)


CHANGES = {
    "a model": edit("python_models/scores.py"),
    "its properties": edit("python_models/risk.yml"),
    "a macro": edit("macros/names.sql"),
    "dbt_project.yml": edit("dbt_project.yml"),
    "profiles.yml": edit("profiles.yml"),
    "packages.yml": edit("packages.yml"),
    "a seed, with its old time": edit_keeping_size_and_time,
    "a new model": new_file("models/deep/new.sql"),
    "a new macro": new_file("macros/new.sql"),
    "a new test": new_file("tests/new.sql"),
    "new selectors": new_file("selectors.yml"),
    "a new package": new_file("dbt_packages/more/dbt_project.yml"),
    "a file less": removed,
    "a variable of the project": variable("TOLD_SCHEMA"),
    "a variable of dbt": variable("DBT_WHATEVER"),
    "another package of Python": installed,
}


@pytest.mark.parametrize("change", CHANGES)
def test_dbt_is_asked_again_after_a_change(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    new = [
        project.root / name for name in ("models/deep/new.sql", "macros/new.sql", "tests/new.sql")
    ]
    new += [project.root / "selectors.yml", project.root / "dbt_packages/more/dbt_project.yml"]
    try:
        run(project, "runs")
        asked = asks_dbt(monkeypatch)
        run(project, "runs")
        assert asked == []
        CHANGES[change](project, monkeypatch)
        run(project, "runs")
        assert asked == ["parse"]
    finally:
        for path in new:
            path.unlink(missing_ok=True)
        for folder in (project.root / "models/deep", project.root / "dbt_packages/more"):
            if folder.exists():
                folder.rmdir()
        seed = project.root / "seeds/model_registry.csv"
        seed.write_text(seed.read_text().replace("lime", "line"))


def test_options_have_answers_of_their_own(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = yaml.safe_load((project.root / "profiles.yml").read_text())
    outputs = profile["consumer"]["outputs"]
    outputs["empty"] = {**outputs["dev"], "schema": "nowhere"}
    project.write_yaml("profiles.yml", profile)
    monkeypatch.setenv("TOLD_SCHEMA", "main")
    asked = asks_dbt(monkeypatch)
    later = ["--vars", '{dbt_onnx_clock: "2024-02-10"}']
    assert '"status": "healthy"' in run(project, "status", "--json")
    assert '"status": "degraded"' in run(project, "status", "--json", *later)
    assert '"status": "healthy"' in run(project, "status", "--json")
    assert asked == ["parse", "compile"] * 3
    asked.clear()
    run(project, "runs", "--target", "empty")
    assert asked == ["parse"]
    # using one target keeps the cache of the other
    run(project, "runs", "--target", "empty")
    run(project, "runs")
    assert asked == ["parse"]


def test_a_variable_that_is_not_named_may_be_any(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(
        "macros/names.sql", NAMED_BY_VARIABLE.replace("'TOLD_SCHEMA'", "'TOLD_' ~ 'SCHEMA'")
    )
    run(project, "runs")
    asked = asks_dbt(monkeypatch)
    run(project, "runs")
    assert asked == []
    monkeypatch.setenv("TOLD_SCHEMA", "main")
    run(project, "runs")
    assert asked == ["parse"]


def test_status_is_rendered_again_when_tables_change(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(project, "status", "--json")
    asked = asks_dbt(monkeypatch)
    assert run(project, "status", "--json") == before
    assert asked == []
    project.sql("alter table features add column note varchar")
    try:
        assert run(project, "status", "--json") == before
        assert asked == ["parse", "compile"]
        assert run(project, "status", "--json") == before
        assert asked == ["parse", "compile"]
    finally:
        project.sql("alter table features drop column note")
    # rows are read each time, and never cached
    project.sql("create table kept as from scores__current")
    project.sql("delete from scores__current where id = 1")
    try:
        run(project, "status")
        assert json.loads(run(project, "status", "--json"))["scoring_models"][1]["missing"] == 1
    finally:
        project.sql("insert into scores__current from kept where id = 1")
        project.sql("drop table kept")


def test_an_artifact_that_was_found_good_is_read_again(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, "status")
    run(project, "status")
    asked = asks_dbt(monkeypatch)
    model = project.root / "artifacts/line/1/model.onnx"
    content = model.read_bytes()
    model.write_bytes(content + b"\0")
    try:
        assert "is not the file that was registered" in run(project, "status")
    finally:
        model.write_bytes(content)
    card = model.with_name("card.json")
    text = card.read_text()
    card.write_text(text.replace('"line"', '"lime"'))
    try:
        assert "card.json" in run(project, "status")
    finally:
        card.write_text(text)
    assert run(project, "status").endswith("healthy\n")
    assert asked == []


def test_a_macro_of_the_project_is_rendered_each_time(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = "predictions, registry, key, entities, stale_after, view"
    own = f"{{% macro duckdb__prediction_health({named}) %}}{{{{ run_started_at and dbt_onnx.default__prediction_health({named}) }}}}{{% endmacro %}}"
    project.write("macros/own.sql", own)
    try:
        assert run(project, "status").endswith("healthy\n")
        asked = asks_dbt(monkeypatch)
        assert run(project, "status").endswith("healthy\n")
        assert asked == ["parse", "compile"]
    finally:
        (project.root / "macros/own.sql").unlink()


BROKEN = {
    "empty": lambda _: b"",
    "no JSON": lambda text: text[:-10],
    "another shape": lambda text: text.replace(b'"models"', b'"model"'),
    "other types": lambda text: text.replace(b'"verified": [', b'"verified": [{}, '),
    "deep": lambda _: b"[" * 100_000,
    "not UTF-8": lambda text: text.replace(b'"models"', b'"models\xff"'),
    "no object": lambda _: b"null",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_ignored_and_written_anew(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = run(project, "runs")
    path = cache_file()
    path.write_bytes(BROKEN[kind](path.read_bytes()))
    asked = asks_dbt(monkeypatch)
    assert run(project, "runs") == before
    assert asked == ["parse"]
    assert run(project, "runs") == before
    assert asked == ["parse"]


def test_a_file_that_others_may_have_written_is_ignored(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, "runs")
    path = cache_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    asked = asks_dbt(monkeypatch)
    path.chmod(0o620)
    run(project, "runs")
    assert asked == ["parse"]
    elsewhere = path.rename(path.parent.parent / "elsewhere.json")
    path.symlink_to(elsewhere)
    run(project, "runs")
    assert asked == ["parse", "parse"]
    assert not path.is_symlink()
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: 12345)
        run(project, "runs")
    assert asked == ["parse"] * 3


def test_a_folder_that_cannot_be_written_is_no_error(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    asked = asks_dbt(monkeypatch)
    for home in (tmp_path / "a file", Path("relative")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        assert "scores" in run(project, "runs")
    assert asked == ["parse"] * 2
    assert not Path("relative").exists()


def test_what_changes_while_dbt_reads_is_not_kept(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 2)
    model = project.root / "python_models/scores.py"
    model.write_bytes(model.read_bytes())
    run(project, "runs")
    assert not Path(os.environ["XDG_CACHE_HOME"]).exists()
    time.sleep(2.5)
    run(project, "runs")
    assert cache_file().is_file()


@pytest.mark.parametrize(
    "target",
    [
        {"settings": {"s3_secret_access_key": "hunter2"}},
        {"attach": [{"path": ":memory:", "alias": "more"}]},
        {"extensions": ["json"]},
    ],
)
def test_a_target_that_is_no_plain_file_is_not_kept(
    project: ScoringProject, target: dict[str, Any]
) -> None:
    project.write_profile(target)
    with_it = DbtProject(project.root, profiles_dir=project.root)
    assert with_it.scoring_models()
    assert not Path(os.environ["XDG_CACHE_HOME"]).exists()


def test_a_few_files_are_kept(project: ScoringProject, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["XDG_CACHE_HOME"], "dbt_onnx")
    folder.mkdir(parents=True)
    for number in range(60):
        (folder / f"{number:02}.json").write_text("{}")
        os.utime(folder / f"{number:02}.json", (number, number))
    run(project, "runs")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 50
    assert "10.json" not in names
    assert "11.json" in names
