"""Rows of docs/errors.md about publications: one function for each, which breaks something real.

Each function gets a publisher that has published its table `t` (id, y) twice. It returns the call that must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from publishing import CLOCK, Publisher
from warehouse import Warehouse

from dbt_onnx.serving.files import Files
from dbt_onnx.serving.manifest import POINTER, read_publications
from dbt_onnx.serving.publish import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Call = Callable[[], object]
Case = Callable[[Publisher], Call]
PUBLISHING: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its id: the function's name with hyphens."""
    PUBLISHING[function.__name__.replace("_", "-")] = function
    return function


@contextmanager
def published(root: Path) -> Iterator[Publisher]:
    """Yield a warehouse in memory that has published its ten rows twice."""
    publisher = Publisher(root)
    try:
        publisher.sql(
            "create table t as select i::integer as id, i / 2e0 as y from range(10) as n (i)"
        )
        publisher.publish()
        publisher.sql("update t set y = 7 where id = 7")
        publisher.publish()
        yield publisher
    finally:
        publisher.close()


def folder_of(publisher: Publisher) -> dict[str, bytes]:
    folder = publisher.folder()
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def with_query(publisher: Publisher, query: str, **arguments: Any) -> Call:
    return lambda: publisher.publish(query, **arguments)


# the arguments of publish()


def arguments(publisher: Publisher, **given: Any) -> Call:
    wanted = {"predictions": publisher.connection.sql("from t"), "key": ["id"], "name": "t"}
    return lambda: publish(None, None, **{**wanted, **given})


@case
def publish_argument_unknown(publisher: Publisher) -> Call:
    return arguments(publisher, stale_aftr=None)


@case
def publish_not_a_relation(publisher: Publisher) -> Call:
    return arguments(publisher, predictions="churn_current")


@case
def publish_key_not_a_list(publisher: Publisher) -> Call:
    return arguments(publisher, key="id")


@case
def publish_name_malformed(publisher: Publisher) -> Call:
    return arguments(publisher, name="../churn")


@case
def publish_targets_malformed(publisher: Publisher) -> Call:
    return arguments(publisher, targets=["Files"])


@case
def publish_target_unknown(publisher: Publisher) -> Call:
    return lambda: publisher.publish(targets=["elsewhere"])


@case
def publish_taken_for_rows(publisher: Publisher) -> Call:
    request = arguments(publisher)()
    return request.__arrow_c_stream__  # type: ignore[attr-defined, no-any-return]


@case
def publish_model_unscored(publisher: Publisher) -> Call:
    warehouse = Warehouse(publisher.root)
    warehouse.register("1")
    [row] = warehouse.sql("from model_registry")
    warehouse.connection.close()
    publisher.sql(
        "create table model_registry as select * from (values ($1, $2, $3, $4, $5)) as "
        "rows (model_name, model_version, alias, artifact, sha256)",
        row,
    )
    registry = publisher.connection.sql("from model_registry")
    return lambda: publisher.publish(registry=registry, model="line@champion")


# the published rows


@case
def publish_key_unknown(publisher: Publisher) -> Call:
    return lambda: publisher.publish(key=["customer_id"])


@case
def publish_key_not_simple(publisher: Publisher) -> Call:
    return with_query(publisher, "select [id] as id, y from t")


@case
def publish_column_reserved(publisher: Publisher) -> Call:
    return with_query(publisher, "select *, 1 as DBT_ONNX_ORIGIN from t")


@case
def publish_key_null(publisher: Publisher) -> Call:
    publisher.sql("insert into t values (null, 1)")
    return publisher.publish


@case
def publish_key_not_unique(publisher: Publisher) -> Call:
    publisher.sql("insert into t values (3, 9)")
    return publisher.publish


@case
def publish_key_not_unique_at_first(publisher: Publisher) -> Call:
    publisher.sql("insert into t values (3, 9)")
    return lambda: publisher.publish(full_refresh=True)


@case
def publish_without_rows(publisher: Publisher) -> Call:
    publisher.sql("delete from t")
    return publisher.publish


@case
def publish_day_out_of_range(publisher: Publisher) -> Call:
    return with_query(publisher, "select *, date '10000-01-01' as day from t")


@case
def publish_moment_infinite(publisher: Publisher) -> Call:
    return with_query(publisher, "select *, 'infinity'::timestamptz as day from t")


@case
def publish_time_out_of_range(publisher: Publisher) -> Call:
    return with_query(publisher, "select *, time '24:00:00' as hour from t")


@case
def published_name_is_taken(publisher: Publisher) -> Call:
    publisher.sql("create or replace table t_published as select 1 as id, 2 as origin")
    return publisher.publish


@case
def published_name_is_a_view(publisher: Publisher) -> Call:
    publisher.sql("alter table t_published rename to aside")
    publisher.sql("create view t_published as from aside")
    return publisher.publish


@case
def publications_name_is_taken(publisher: Publisher) -> Call:
    publisher.sql("create or replace table dbt_onnx_publications as select 1 as id")
    return publisher.publish


# writing and reading the folder


@case
def publish_at_once(publisher: Publisher) -> Call:
    def call() -> None:
        with Files(publisher.folder()).locked():
            publisher.publish()

    return call


@case
def publish_folder_not_writable(publisher: Publisher) -> Call:
    (publisher.root / "serving" / "other").write_text("in the way")
    return lambda: publisher.publish(name="other")


@case
def pointer_not_readable(publisher: Publisher) -> Call:
    (publisher.folder() / POINTER).write_text("{")
    return publisher.publish


@case
def nothing_is_published(publisher: Publisher) -> Call:
    return lambda: publisher.open("other")


@case
def publications_damaged(publisher: Publisher) -> Call:
    for path in publisher.folder().glob("*.sqlite"):
        path.chmod(0o644)
        path.write_bytes(b"nothing")
    return publisher.open


@case
def publication_altered_while_open(publisher: Publisher) -> Call:
    predictions = publisher.open()
    path = publisher.folder() / predictions.manifest.file_name
    path.chmod(0o644)
    path.write_bytes(b"\0" * predictions.manifest.bytes)

    def call() -> None:
        with predictions:
            predictions.get(1)

    return call


@case
def published_key_of_another_type(publisher: Publisher) -> Call:
    def call() -> None:
        with publisher.open() as predictions:
            predictions.get("1")

    return call


@case
def unpublish_the_oldest(publisher: Publisher) -> Call:
    def call() -> None:
        found = read_publications(publisher.folder())
        for _ in range(2):
            found = found.unpublished(at=CLOCK)

    return call
