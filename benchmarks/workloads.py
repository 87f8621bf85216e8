"""Workloads: a table, its number of rows, and the model that scores it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import data, models

CHUNK_ROWS = 262_144


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A table and a model. `table` is floats, mixed or array.

    rows                 number of rows in the full version
    inference_dominates  the model takes most of the time, not reading and writing
    workers              number of sessions that a careful author would run in parallel
    orbital              whether orbital is compared: it must be able to turn the model into SQL that is not too slow
    """

    name: str
    model: str
    rows: int
    table: str = "floats"
    features: int = 10
    inference_dominates: bool = False
    workers: int = 1
    orbital: bool = True

    def described(self, rows: int) -> dict[str, Any]:
        """Make data and model if needed, and return the JSON description that every rival gets."""
        return {
            **asdict(self),
            "rows": rows,
            "data": str(data.TABLES[self.table](rows, self.features)),
            "columns": data.columns(self.table, self.features),
            "model": models.model(self.model, features=self.features),
        }


_HEAVY: dict[str, Any] = {"inference_dominates": True, "workers": 2}

LOGISTIC = Workload(name="logistic", model="logistic", rows=5_000_000)
TREES_20 = Workload(name="20 trees", model="trees_20", rows=5_000_000, **_HEAVY)
TREES_100 = Workload(name="100 trees", model="trees_100", rows=5_000_000, **_HEAVY)
HISTOGRAM = Workload(name="histogram", model="histogram", rows=1_000_000, orbital=False, **_HEAVY)
PERCEPTRON = Workload(
    name="perceptron", model="perceptron", rows=5_000_000, orbital=False, **_HEAVY
)
WIDE = Workload(name="200 features", model="logistic", rows=500_000, features=200)
MIXED = Workload(
    name="mixed columns", model="mixed", rows=1_000_000, table="mixed",
    workers=2,
)  # fmt: skip
ARRAY = Workload(
    name="64-float array", model="projection", rows=1_000_000, table="array", features=64,
    orbital=False,
)  # fmt: skip

WORKLOADS = (LOGISTIC, TREES_20, TREES_100, HISTOGRAM, PERCEPTRON, WIDE, MIXED, ARRAY)
