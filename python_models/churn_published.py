from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt,
        session,
        predictions=dbt.ref("churn_current"),
        key=["customer_id"],
        name="churn",
    )
