"""Bad input gives one clear error: each error in docs/errors.md is provoked and its text compared."""

from __future__ import annotations

import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

from error_catalogue import (
    ERRORS,
    PUBLISHING,
    RUNS,
    TARGETS,
    copied,
    create_template,
    faults_of_call,
    faults_of_command,
    faults_of_dbt,
    faults_of_publishing,
    faults_of_run,
)
from error_commands import COMMANDS, create_files
from error_document import ON_SPARK
from error_project import (
    CALLS,
    LOCKED,
    NODES,
    VARIABLES,
    VERSIONS,
    build,
    call_in_project,
    create_project,
    locked,
    node_name,
    with_another_version,
    with_variables,
)
from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from scoring_project import ScoringProject

PROMISE = "Bad input gives one clear error"


def measure(folder: Path, *, every: int) -> Iterator[Attack]:
    """Provoke every `every`th documented error; one `Attack` per section of the document."""
    # errors about serving targets need servers: test_targets.py provokes them
    chosen = [name for name in ERRORS if name not in {*TARGETS, *ON_SPARK}][::every]
    attacks = {ERRORS[name].section: Attack(PROMISE, ERRORS[name].section) for name in chosen}
    for name, faults in _attacked(folder, chosen):
        harm = f"{name}: {'; '.join(faults)}" if faults else None
        attacks[ERRORS[name].section].made(harm=harm)
    yield from attacks.values()
    yield _provoked(chosen, attacks.values())


def _provoked(chosen: list[str], attacks: Iterable[Attack]) -> Attack:
    """Report how many chosen errors were never provoked: the sections alone would not show them."""
    attack = Attack(PROMISE, "rows of the document that nothing provoked")
    missed = len(chosen) - sum(other.attacks for other in attacks)
    attack.made(harm=f"{missed} rows" if missed else None)
    return attack


def _attacked(folder: Path, chosen: list[str]) -> Iterator[tuple[str, list[str]]]:
    template = create_template(folder / "template")
    for name in filter(RUNS.__contains__, chosen):
        with copied(template, folder / "copy") as warehouse:
            yield name, faults_of_run(warehouse, name)
    for name in filter(PUBLISHING.__contains__, chosen):
        yield name, faults_of_publishing(folder / "copy", name)
        shutil.rmtree(folder / "copy")
    create_files(folder / "seeds")
    for name in filter(COMMANDS.__contains__, chosen):
        # a separate folder for each: mlflow remembers the folder of a registry, and fails if it is gone
        shutil.copytree(folder / "seeds", folder / "commands" / name)
        yield name, faults_of_command(folder / "commands" / name, name)
        shutil.rmtree(folder / "commands" / name)
    # dbt prints failures; keep them out of the report
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        said = list(_attacked_project(create_project(folder / "project"), chosen))
    yield from said


def _attacked_project(
    project: ScoringProject, chosen: list[str]
) -> Iterator[tuple[str, list[str]]]:
    if LOCKED in chosen:
        with locked(project):
            outcome = project.dbt("run")
        yield LOCKED, faults_of_dbt(LOCKED, outcome.error + outcome.log)
    nodes = build(project).nodes
    for name in filter(NODES.__contains__, chosen):
        yield name, faults_of_dbt(name, nodes[node_name(name)].message)
    for name in filter(CALLS.__contains__, chosen):
        yield name, faults_of_call(name, call_in_project(project, name))
    if VERSIONS in chosen:
        yield VERSIONS, faults_of_dbt(VERSIONS, with_another_version(project))
    if not VARIABLES.keys().isdisjoint(chosen):
        for name, text in with_variables(project).items():
            if name in chosen:
                yield name, faults_of_dbt(name, text)
