"""A DuckDB warehouse with one scoring model, without dbt. It calls `score_table` as dbt does."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from hardening import CONFIG, connect, with_own_order, with_settings
from onnx import TensorProto, helper

from dbt_onnx.engines.duckdb.engine import score_on_duckdb
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.runs.request import RunSettings, check_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.run import RunSummary

ARGUMENTS: dict[str, Any] = {
    "model": "line",
    "key": ["id"],
    "as_of": None,
    "refresh_after": None,
    "keep_inputs": True,
    "significant_digits": 9,
    "max_rejected_fraction": 1.0,
    "batch_rows": None,
    "threads": 1,
}


def line_model(a: float = 2.0, b: float = -1.0, c: float = 0.5) -> bytes:
    """Return a model that can be computed by hand: by default y = 2a - b + 0.5, from one (N, 2) float32 tensor."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["X", "W", "c"], ["y"])],
        "line",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("W", TensorProto.FLOAT, [2, 1], [a, b]),
            helper.make_tensor("c", TensorProto.FLOAT, [1], [c]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def line_contract(column: str = "y", features: tuple[str, str] = ("a", "b")) -> Contract:
    return Contract(
        features=tuple(Feature(name=name) for name in features),
        inputs=(Input(name="X", dtype="float32", features=features),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=(column,)),),
    )


class Warehouse:
    """The features, registry and clock of one scoring model `scores`, which a test may change between runs.

    If the folder already has a warehouse, it is opened again; set `runs` to its number of runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "scores",
        schema: str = "main",
        config: Mapping[str, Any] = CONFIG,
    ) -> None:
        self.folder = folder
        self.name, self.schema = name, schema
        self.artifacts = folder / "artifacts"
        self.connection = connect(folder / "w.duckdb", config)
        self.clock = "2024-01-10 00:00:00"
        self.runs = 0
        self.log_messages: list[str] = []
        self.sql(
            "create table if not exists model_registry (model_name varchar, model_version varchar, "
            "alias varchar, artifact varchar, sha256 varchar)"
        )
        self.sql("create table if not exists features (id integer, a double, b double)")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return with_own_order(self.connection.cursor()).execute(statement).fetchall()

    def register(
        self,
        version: str,
        model: bytes | None = None,
        contract: Contract | None = None,
        *,
        alias: str | None = "champion",
        name: str = "line",
    ) -> Path:
        """Write an artifact and its registry row. The version that had the alias loses it."""
        model = line_model() if model is None else model
        contract = contract or line_contract()
        folder = self.artifacts / name / version
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        path.write_bytes(model)
        digest = hashlib.sha256(model).hexdigest()
        card = {
            "format_version": 1,
            "model_name": name,
            "model_version": version,
            "sha256": digest,
            "contract": contract.to_dict(),
        }
        (folder / "card.json").write_text(json.dumps(card))
        cursor = self.connection.cursor()
        cursor.execute("delete from model_registry where model_version = $1", [version])
        self.promote(None, alias=alias)
        cursor.execute(
            "insert into model_registry values ($1, $2, $3, $4, $5)",
            [name, version, alias, f"{name}/{version}/model.onnx", digest],
        )
        return path

    def promote(self, version: str | None, *, alias: str | None = "champion") -> None:
        cursor = self.connection.cursor()
        cursor.execute("update model_registry set alias = null where alias = $1", [alias])
        cursor.execute(
            "update model_registry set alias = $1 where model_version = $2", [alias, version]
        )

    def features(self, *rows: tuple[Any, ...]) -> None:
        """Replace the feature rows."""
        self.sql("delete from features")
        if rows:
            marks = ", ".join("?" for _ in rows[0])
            self.connection.cursor().executemany(f"insert into features values ({marks})", rows)

    def run(
        self,
        *,
        full_refresh: bool = False,
        empty: bool = False,
        retry_rejected: bool = False,
        requested_model: str | None = None,
        features: str = "select * from features",
        logs: AnswerLogs | None = None,
        **arguments: Any,
    ) -> RunSummary:
        self.runs += 1
        settings = RunSettings(
            database="w",
            schema=self.schema,
            identifier=self.name,
            run_id=f"run-{self.runs}",
            clock_sql=f"cast('{self.clock}' as timestamp)",
            full_refresh=full_refresh,
            empty=empty,
            retry_rejected=retry_rejected,
            dbt_version="1.11.0",
            model=requested_model,
        )
        session = with_settings(self.connection.cursor())
        relations = {
            "features": session.query(features),
            "registry": session.query('select * from "w"."main"."model_registry"'),
            **{name: arguments.pop(name) for name in ("registry",) if name in arguments},
        }
        known = {**ARGUMENTS, **relations, **{k: v for k, v in arguments.items() if k in ARGUMENTS}}
        unknown = {k: v for k, v in arguments.items() if k not in ARGUMENTS}
        return score_on_duckdb(
            check_request(known, unknown),
            settings,
            connection=session,
            artifacts=self.artifacts,
            log=self.log_messages.append,
            logs=logs,
        )

    def ledger(self, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.sql(f'select {columns} from "{self.name}" order by scored_at, id')

    def latest(self, columns: str = "*") -> list[tuple[Any, ...]]:
        """Return the current rows, with the columns of the ledger and of presence."""
        return self.sql(f"select {columns} from {self.current_rows()} order by all")

    def current_rows(self) -> str:
        return current_rows(self)

    def last_run(self, columns: str) -> tuple[Any, ...]:
        return self.sql(
            f"select {columns} from dbt_onnx_runs order by started_at desc, run_id desc limit 1"
        )[0]


def current_rows(model: Any) -> str:
    """Return a relation of the rows of `<name>__current`, joined with the runs and `<name>__presence`."""
    confirming = (
        "select max(later.as_of) from dbt_onnx_runs as later where later.run_no >= c.run_no "
        "and (later.scoring_model, later.model_name, later.model_version) "
        "= (runs.scoring_model, runs.model_name, runs.model_version) "
        "and later.status = 'success' and later.scope = 'full' and later.has_one_moment "
        "and c.rejected_reason_no is null"
    )
    columns = {
        "status": "case when c.rejected_reason_no is null then 'scored' else 'rejected' end",
        "rejected_reason": "runs.rejected_reasons[c.rejected_reason_no]",
        **{n: f"runs.{n}" for n in ("model_name", "model_version", "run_id", "scored_at")},
        "last_seen_as_of": "presence.last_seen_as_of",
        "confirmed_as_of": f"coalesce(presence.confirmed_as_of, greatest(c.as_of, ({confirming})))",
    }
    key = [row[0] for row in model.sql(f'describe "{model.name}__presence"')][:-3]
    same = " and ".join(f"presence.{quote(name)} = c.{quote(name)}" for name in ("run_no", *key))
    names = [row[0] for row in model.sql(f'describe "{model.name}"')]
    listed = [
        f"{columns.get(name, f'c.{quote(name)}')} as {quote(name)}"
        for name in (*names, "last_seen_as_of", "confirmed_as_of")
        if name not in {"score_reason", "is_late"}
    ]
    return (
        f'(select {", ".join(listed)} from "{model.name}__current" as c '
        "left join dbt_onnx_runs as runs using (run_no) "
        f'left join "{model.name}__presence" as presence on {same}) as current_rows'
    )


def newest_of_ledger(
    warehouse: Warehouse, *, key: tuple[str, ...] = ("id",)
) -> list[tuple[Any, ...]]:
    """Compute the current rows from the ledger alone."""
    rows = warehouse.sql(f'select * from "{warehouse.name}"')
    names = [row[0] for row in warehouse.sql(f'describe "{warehouse.name}"')]
    at = {name: position for position, name in enumerate(names)}

    newest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in rows:
        entity = tuple(row[at[name]] for name in (*key, "model_name", "model_version"))
        if row[at["is_late"]] or any(row[at[name]] is None for name in key):
            continue
        slot = (*entity, row[at["status"]])
        if slot not in newest or row[at["scored_at"]] > newest[slot][at["scored_at"]]:
            newest[slot] = row
    kept = []
    for slot, row in newest.items():
        scored = newest.get((*slot[:-1], "scored"), row)
        if scored[at["scored_at"]] <= row[at["scored_at"]]:
            kept.append(row)
    # only the ledger has these two columns
    left_out = (at["score_reason"], at["is_late"])
    return [tuple(v for i, v in enumerate(row) if i not in left_out) for row in kept]
