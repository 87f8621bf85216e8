"""Serve the published predictions of the reference project, send requests, print the answers, and stop."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from demo import ROOT

from dbt_onnx.serving import Predictions

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVING = ROOT / "serving"
KNOWN, MISSING, NEW = "00042", "99999", "23571"
# two purchases with a total of 59 dollars, the last one three weeks ago
FEATURES = {
    "recency_weeks": 3, "frequency": 2, "active_weeks": 9, "monetary": 59.00, "average_purchase": 29.50,
    "largest_purchase": 35.00, "cds": 4, "purchases_13w": 2, "dollars_13w": 59.00, "cds_13w": 4,
}  # fmt: skip
SHOWN = ("state", "status", "outputs", "age_seconds", "is_stale", "served_from", "rejected_reason")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", default="1998-04-01", help="the clock of the last nightly build")
    as_of = parser.parse_args().as_of
    with Predictions.open(SERVING / "churn") as predictions:
        print(f"serving/churn has {predictions.manifest.rows:,} customers\n")
    with service(f"{as_of} 06:00:00") as address:
        print("the morning after the last nightly build:")
        show("a known customer", ask(address, f"churn/{KNOWN}"))
        show("an unknown customer", ask(address, f"churn/{MISSING}"))
        request = {"key": NEW, "features": FEATURES}
        show("a new customer", ask(address, "churn:score", request))
        unknown = {"key": NEW, "features": {**FEATURES, "monetary": None}}
        show("a null feature", ask(address, "churn:score", unknown))
        show("a new customer, later", submitted(address, request))
    with service("1998-05-01") as address:
        print("\na month later, without another nightly build:")
        show("a known customer", ask(address, f"churn/{KNOWN}"))
        show("is the service ready?", ask(address, "/readyz"))
    return 0


@contextmanager
def service(clock: str) -> Iterator[str]:
    """Run the service on a free port with its clock set to `clock`, and yield its address."""
    command = [str(Path(sys.executable).with_name("dbt-onnx")), "serve", str(SERVING)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--clock", clock], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Send a request, and return the HTTP status and the document."""
    url = address + (path if path.startswith("/") else f"/v1/predictions/{path}")
    content = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, content)) as answer:  # noqa: S310, the service above
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def submitted(address: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Submit a request for scoring, and poll until it is answered."""
    status, document = ask(address, "churn:submit", request)
    show("submitted", (status, document))
    place = f"/v1/submissions/churn/{document['request_id']}"
    while document["ended_at"] is None:
        time.sleep(0.1)
        status, document = ask(address, place)
    return status, document["answer"] or document


def show(what: str, answered: tuple[int, dict[str, Any]]) -> None:
    status, document = answered
    shown = {name: document[name] for name in SHOWN if document.get(name) not in (None, {})}
    print(f"  {what:28} {status}  {json.dumps(shown or document)}")


if __name__ == "__main__":
    sys.exit(main())
