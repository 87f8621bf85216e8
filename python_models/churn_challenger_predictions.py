from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("customer_features"),
        registry=dbt.ref("model_registry"),
        model="churn@challenger",
        key=["customer_id"],
        as_of="feature_date",
    )
