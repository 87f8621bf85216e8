from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt,
        session,
        predictions=dbt.ref("churn_current"),
        key=["customer_id"],
        name="churn",
        # with its model: who is new can be scored at once
        registry=dbt.ref("model_registry"),
        model="churn",
    )
