"""Cases of generic tests. A case has the tables that the test needs, its arguments, and the rows that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hand_written import CLOCK, HandWritten, generic_test, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consumer import Project


@dataclass(frozen=True)
class Table:
    """A table. As an argument of a case it is passed as a relation."""

    name: str
    columns: Mapping[str, str]
    rows: Sequence[tuple[Any, ...]]

    def write(self, hand: HandWritten) -> None:
        hand.table(self.name, self.columns, list(self.rows))


@dataclass(frozen=True)
class Registry:
    """A registry: versions and their aliases. As an argument of a case it is passed as a relation."""

    name: str
    versions: Mapping[str, str | None]

    def write(self, hand: HandWritten) -> None:
        hand.registry(self.name, *self.versions.items())


@dataclass(frozen=True)
class Model:
    """A scoring model. If `runs` is None, its tables are not created."""

    name: str
    rows: Sequence[dict[str, Any]] = ()
    runs: Sequence[dict[str, Any]] | None = None
    key: Mapping[str, str] | None = None
    outputs: Mapping[str, str] | None = None

    def write(self, hand: HandWritten) -> None:
        if self.runs is not None:
            rows, runs = list(self.rows), list(self.runs)
            hand.scoring_model(self.name, rows, runs, key=self.key, outputs=self.outputs)


@dataclass(frozen=True)
class Case:
    """A case. It passes without `rows`, and is an error if it has `faults`. A row that is a dict has all columns."""

    name: str
    on: Model
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Any] = ()
    columns: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    warns: bool = False
    where: str | None = None

    def tables(self) -> list[Any]:
        given = [v for v in self.arguments.values() if isinstance(v, (Table, Registry))]
        return [self.on, *given]

    def generic_test(self, kind: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        arguments = {
            name: f"source('hand', '{value.name}')" if hasattr(value, "write") else value
            for name, value in {**defaults, **self.arguments}.items()
        }
        test = generic_test(kind, self.name, **arguments)
        if self.where:
            test[f"dbt_onnx.{kind}"]["config"]["where"] = self.where
        return test

    def check(self, project: Project, columns: tuple[str, ...]) -> None:
        node = project.outcome.nodes[self.name]
        failing = "warn" if self.warns else "fail"
        expected = "error" if self.faults else failing if self.rows else "pass"
        assert node.status == expected, node.message
        assert [fault for fault in self.faults if fault not in node.message] == []
        if self.faults:
            return
        assert node.failures == len(self.rows)
        if self.rows and isinstance(self.rows[0], dict):
            assert project.failures(self.name) == list(self.rows)
        elif self.rows:
            assert project.found(self.name, *(self.columns or columns)) == list(self.rows)


def run_cases(project: Project, kind: str, cases: Sequence[Case], **defaults: Any) -> Project:
    """Write the tables of all cases, and run all cases in one command. `defaults` are default arguments."""
    used = {table.name: table for case in cases for table in case.tables()}
    used.update({value.name: value for value in defaults.values() if hasattr(value, "write")})
    hand = HandWritten(project.warehouse)
    for table in used.values():
        table.write(hand)
    hand.close()
    declared = {
        name: [case.generic_test(kind, defaults) for case in cases if case.on.name == name]
        for name in used
    }
    project.write_yaml("models/hand.yml", sources(**declared))
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project
