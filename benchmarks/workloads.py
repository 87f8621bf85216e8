"""What is scored: a table, the model that scores it, and how many rows of it there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import data, models

CHUNK_ROWS = 262_144


@dataclass(frozen=True)
class Workload:
    """`table` is floats, mixed or array. `workers`: how many sessions a careful author would run
    at once: two where inference takes the time, one where reading and writing do. `smoke_rows`
    none: not in the short version.
    """

    name: str
    model: str
    rows: int
    smoke_rows: int | None
    table: str = "floats"
    features: int = 10
    workers: int = 2

    def described(self, rows: int) -> dict[str, Any]:
        """As JSON, with data and model made: what every rival is given."""
        return {
            **asdict(self),
            "rows": rows,
            "data": str(data.TABLES[self.table](rows, self.features)),
            "columns": data.columns(self.table, self.features),
            "model": models.model(self.model, features=self.features),
        }


WORKLOADS = (
    Workload("logistic", "logistic", 5_000_000, 1_000_000, workers=1),
    Workload("20 trees", "trees_20", 5_000_000, None),
    Workload("100 trees", "trees_100", 2_000_000, 500_000),
    Workload("histogram", "histogram", 1_000_000, None),
    Workload("perceptron", "perceptron", 2_000_000, None),
    Workload("200 features", "logistic", 500_000, None, features=200, workers=1),
    Workload("mixed columns", "mixed", 1_000_000, 200_000, "mixed"),
    Workload("64-float array", "projection", 1_000_000, None, "array", 64, workers=1),
)
