from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(dbt, session, predictions=dbt.ref("film_index"), key=["film_id"], name="films")
