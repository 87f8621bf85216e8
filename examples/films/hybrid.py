"""Run the whole example from scratch: ratings, models, nightly build, service, answers, figures. `make hybrid`

python examples/films/hybrid.py
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import evaluate
import numpy as np
import prepare
import train
from from_raw import FromRaw
from project import HERE, SERVING, WAREHOUSE, dbt, held_out, install, is_judged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REQUESTS, FROM_RAW = 400, 100
SHAWSHANK, PULP_FICTION, TOY_STORY, FINDING_NEMO, SHREK = 318, 296, 1, 6377, 4306
NOBODY = 99_999


def main() -> int:
    begin("the ratings")
    for made in (SERVING, HERE / "data"):
        shutil.rmtree(made, ignore_errors=True)
    for file in HERE.glob(f"{WAREHOUSE.name}*"):
        file.unlink()
    prepare.main()
    install()
    begin("the models are trained, without the last five ratings of each person")
    train.main()
    begin("the night: embeddings, candidates, tests, publications")
    print(*dbt("build"), sep="\n")
    begin("what each step gains")
    evaluate.main()
    begin("the service")
    with service() as address:
        show(address)
        compare(address)
    return 0


def begin(what: str) -> None:
    print(f"\n== {what}", flush=True)


@contextmanager
def service() -> Iterator[str]:
    """Run the service on a free port and yield its address."""
    command = [sys.executable, str(HERE / "service.py"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield urlsplit(process.stdout.readline().split()[-1]).netloc
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection to the service."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=30)

    def ask(
        self, user: object, session: Sequence[object] = (), *, limit: int = 10
    ) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the document."""
        body = json.dumps({"session": list(session), "limit": limit}).encode()
        self._connection.request("POST", f"/v1/rankings/films/{user}", body)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def show(address: str) -> None:
    client = Client(address)
    for what, user, session in (
        ("a known person", 17, []),
        ("after three clicks on films for children", 17, [TOY_STORY, FINDING_NEMO, SHREK]),
        ("an unknown person", NOBODY, []),
        ("an unknown person, after two clicks", NOBODY, [SHAWSHANK, PULP_FICTION]),
        ("an invalid film", 17, ["Shrek"]),
    ):
        status, document = client.ask(user, session, limit=4)
        print(
            f"{what}: POST /v1/rankings/films/{user} {json.dumps({'session': session})}   {status}"
        )
        for film in document.get("films", []):
            print(f"    {film['probability']:.4f}  {film['title']}")
        if "error" in document:
            print(f"    {document['error']['message']}")


def compare(address: str) -> None:
    """Compare answers and response times of the service with those computed from the raw ratings."""
    held = {user_id: films for user_id, films in held_out().items() if is_judged(user_id)}
    questions = [(user_id, films[:3]) for user_id, films in held.items()]
    client, raw = Client(address), FromRaw()
    begin("how long an answer takes, over HTTP on one connection and from the raw ratings")
    requests = (questions * REQUESTS)[:REQUESTS]
    client.ask(*requests[0])  # the first request loads the model
    seconds, _ = timed(client.ask, requests)
    print_latencies("the night's candidates, reranked", seconds)
    seconds, expected = timed(raw.rank, questions[:FROM_RAW])
    print_latencies("everything from the raw ratings", seconds)
    pairs, client = [], Client(address)  # the service closes idle connections
    for question, films in zip(questions, expected, strict=False):
        _, document = client.ask(*question, limit=200)
        pairs.append(([film["film"] for film in document["films"]], films))
    same = sum(got == wanted for got, wanted in pairs)
    print(f"  the same films in the same order: {same} of {len(pairs)} answers")
    if same < len(pairs):
        raise SystemExit("the service and the raw ratings give different rankings")


def timed(ask: Any, questions: Sequence[tuple[int, list[int]]]) -> tuple[list[float], list[Any]]:
    """Return the seconds and the answer of each question."""
    seconds, answers = [], []
    for question in questions:
        begun = time.perf_counter()
        answers.append(ask(*question))
        seconds.append(time.perf_counter() - begun)
    return seconds, answers


def print_latencies(what: str, seconds: Sequence[float]) -> None:
    median, p99 = np.percentile(np.array(seconds) * 1_000, [50, 99])
    print(f"  {what:34} {len(seconds):4} requests   median {median:8.2f} ms   p99 {p99:8.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
