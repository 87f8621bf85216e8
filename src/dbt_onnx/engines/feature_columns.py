"""Checks of a feature relation's columns and rows against the arguments of `score()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ConfigError, DataError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.runs.plan import Snapshot


@dataclass(frozen=True, kw_only=True)
class FeatureColumns:
    """A feature relation. `sql` is a query or the text of a FROM clause, depending on the engine. `name` is its
    name in messages. `columns` are the SQL types by name.
    """

    sql: str
    name: str
    columns: Mapping[str, str]

    def check_names(self, *, key: Sequence[str], as_of: str | None) -> None:
        """Raise ConfigError if a column that `score()` names is missing."""
        for role, names in (("key", key), ("as_of", [as_of] if as_of else [])):
            missing = [name for name in names if name not in self.columns]
            if missing:
                raise ConfigError(
                    f"{role} column(s) {missing} not found in {self.name}; it has "
                    f"{list(self.columns)}",
                    hint=f"add the column to the features model, or correct {role} in score()",
                )

    def check_moment(self, as_of: str | None, *, types: re.Pattern[str]) -> None:
        """Raise ConfigError if the type of the column `as_of` does not match `types`."""
        if as_of is not None and not types.fullmatch(self.columns[as_of]):
            raise ConfigError(
                f"as_of column {as_of!r} of {self.name} is {self.columns[as_of]}, not a DATE or "
                "TIMESTAMP",
                hint="cast it in the features model",
            )

    def check_not_empty(self, rows: int) -> None:
        """Raise DataError when there are no rows."""
        if rows == 0:
            raise DataError(
                f"{self.name} has no rows: there is nothing to score",
                hint="check the model upstream; `dbt run --empty` builds the tables without rows",
            )

    def check_not_future(self, given: Snapshot, *, as_of: str | None, clock: datetime) -> None:
        """Raise DataError if rows describe the future."""
        newest = given.newest
        # a moment after the year 9999, which Python cannot represent, comes as text
        if newest is not None and (not hasattr(newest, "isoformat") or newest > clock):
            raise DataError(
                f"{self.name} describes the future: the newest {as_of!r} is {newest}, and the "
                f"clock says {clock}",
                hint="correct the dates upstream, or set the variable dbt_onnx_clock",
            )

    def not_unique(self, key: Sequence[str], repeated: Sequence[Sequence[Any]]) -> DataError:
        """Return the error for keys that occur more than once. `repeated` are some keys, each with its count."""
        examples = "; ".join(
            f"{dict(zip(key, row[:-1], strict=True))} {row[-1]} times" for row in repeated
        )
        return DataError(
            f"key {list(key)} is not unique in {self.name}: {examples}",
            hint="give the features model one row per key, or add the column that tells its "
            "rows apart to key",
        )
