from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt,
        session,
        predictions=dbt.ref("churn_current"),
        key=["customer_id"],
        name="churn",
        # publishes the model, too, so that new customers can be scored on request
        registry=dbt.ref("model_registry"),
        model="churn",
    )
