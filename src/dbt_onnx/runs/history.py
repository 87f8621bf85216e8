"""Records of past runs: a row for each run, a row for each prediction, and what was erased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import ModelVersion
from dbt_onnx.errors import ConfigError, WarehouseError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.precisions import PRECISION
from dbt_onnx.runs.tables import LEDGER_TYPES

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

Place = tuple[str, "datetime | None"]
"""Where to find the kept inputs of a row: the id of its run and, for an answer on request, its moment. A
service may answer about an entity several times before a run."""

_STAMPS = (
    "scored_at", "as_of", "run_id", "status", "rejected_reason", "score_reason", "is_late",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One row of `dbt_onnx_runs`, {column: value}. Each column is also an attribute."""

    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    @property
    def model(self) -> ModelVersion:
        """The version that the run scored with."""
        return ModelVersion(self.model_name, self.model_version)

    @property
    def per_reason(self) -> dict[str, int]:
        """The number of rows that were tried for each reason, scored or rejected, without zeros."""
        counts = {reason: self.values[f"rows_{reason}"] for reason in SCORE_REASONS}
        return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What a feature contributed to the prediction in the column `output`.

    value         the feature's value as text; None for NULL
    contribution  the contributions of all features and `base` add up to the score
    base          the mean score of the sample that the card of the model has
    scale         the unit of the score, such as `log-odds`
    """

    output: str
    feature: str
    value: str | None
    contribution: float
    base: float
    scale: str


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The result of explaining predictions of a run.

    rows_added      how many rows of the ledger were explained now
    rows_explained  how many rows of the run are explained, with earlier ones
    row             the row of the ledger, if only one entity was asked for, with all of its contributions
    """

    run: RunRow
    rows_added: int
    rows_explained: int
    row: LedgerRow | None = None


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One row of the ledger.

    outputs         {output column: value}; NULL in a rejected row
    changed_inputs  {feature: (value in the row before, value in this row)} for changed features that
                    both models read. None for the first row, and if the inputs of either row are not
                    kept. The row before has the latest `as_of` up to this row's, among the rows that
                    existed already: a backfilled row is compared with its predecessor in time.
    contributions   the largest first; empty if the row was not explained
    """

    scored_at: datetime
    as_of: datetime
    model: str
    run_id: str
    status: str
    rejected_reason: str | None
    score_reason: str
    is_late: bool
    outputs: Mapping[str, Any]
    changed_inputs: Mapping[str, tuple[Any, Any]] | None
    contributions: Sequence[Contribution] = ()


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The number of predictions and kept inputs that are, or would be, erased, and of runs that wrote them.

    `logged_by` lists publications with a service that has logged answers about the ledger's entities in
    files. An erasure does not change these files.
    """

    rows: int
    rows_inputs: int
    runs: int
    logged_by: tuple[str, ...] = ()


def key_columns_of(runs: Iterable[RunRow], ledger: object) -> list[str]:
    """Return the key columns of a scoring model's newest successful run. Raises ConfigError if there is none."""
    for run in runs:
        if run.status == "success" and run.key_columns:
            return list(run.key_columns)
    raise ConfigError(
        f"{ledger} has no prediction yet: no run of it has succeeded",
        hint="`dbt build` makes the first",
    )


def check_key(key: Collection[str], key_values: Sequence[str], ledger: object) -> None:
    """Raise ConfigError unless there is one value for each key column."""
    if len(key) != len(key_values):
        raise ConfigError(
            f"the key of {ledger} is {', '.join(key)}; got {len(key_values)} value(s)",
            hint=f"give one value for each, in this order: {' '.join(n.upper() for n in key)}",
        )


def by_feature(
    inputs: object,
    features: Sequence[str] | None,
    texts: Sequence[str] | None,
    *,
    valid: re.Pattern[str],
) -> dict[str, str]:
    """Return {feature: text} of a run; the texts are the SQL types or the precisions in the run row.

    The texts become part of statements, so it raises WarehouseError if one does not match `valid`.
    """
    names, found = features or [], texts or []
    if len(names) != len(found) or not all(map(valid.fullmatch, found)):
        what = "with precisions" if valid is PRECISION else "of types"
        raise WarehouseError(
            f"the run rows of {inputs} were altered: features {features} {what} {texts}",
            hint="restore the table of runs from a backup",
        )
    return dict(zip(names, found, strict=True))


def ledger_rows(
    rows: Sequence[Mapping[str, Any]],
    kept: Mapping[Place, Mapping[str, Any]],
    *,
    key: Collection[str],
    contributions: Mapping[tuple[str, datetime], Sequence[Contribution]] | None = None,
) -> list[LedgerRow]:
    """Return the ledger's rows about one entity, in the order in which they were made, with changed inputs.

    `kept` are the features of each row, without columns that its model did not read. `contributions` are
    those of the explained rows, by the id of the run and the moment.
    """
    found = []
    for position, row in enumerate(rows):
        earlier = [
            other
            for other in rows[:position]
            if other["as_of"] <= row["as_of"]
            # a run compares with rows that runs have scored, and not with answers on request
            and (_is_answer(row) or not _is_answer(other))
        ]
        before = max(earlier, key=lambda other: (other["as_of"], other["scored_at"]), default=None)
        found.append(
            LedgerRow(
                **{name: row[name] for name in _STAMPS},
                model=f"{row['model_name']}/{row['model_version']}",
                outputs={
                    name: value
                    for name, value in row.items()
                    if name not in key and name.casefold() not in LEDGER_TYPES
                },
                changed_inputs=before
                and _changes(kept.get(_place_of(before)), kept.get(_place_of(row))),
                contributions=(contributions or {}).get((row["run_id"], row["as_of"]), ()),
            )
        )
    return found


def _is_answer(row: Mapping[str, Any]) -> bool:
    return bool(row["score_reason"] == REAL_TIME)


def _place_of(row: Mapping[str, Any]) -> Place:
    return row["run_id"], row["as_of"] if _is_answer(row) else None


def _changes(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> dict[str, tuple[Any, Any]] | None:
    if before is None or now is None:
        return None
    both = [name for name in now if name in before]
    return {name: (before[name], now[name]) for name in both if before[name] != now[name]}
