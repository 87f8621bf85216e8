"""A model that kills its process kills only a child process: register, verify and the gate report it and go on."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs
import killers
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from dbt_onnx.artifacts.artifact import write_artifact
from dbt_onnx.artifacts.registry_file import add_entry
from dbt_onnx.cli import main
from dbt_onnx.errors import ArtifactError, ModelCrashError, ModelError, ScoringError
from dbt_onnx.kernel import child, child_session
from dbt_onnx.kernel.child import ChildDiedError
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.native import OverdueError
from dbt_onnx.kernel.session import OnnxSession
from dbt_onnx.promotion.answers import Answers, Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator

DIVISION = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(
        Input(name="dividend", dtype="int64", features=("a",)),
        Input(name="divisor", dtype="int64", features=("b",)),
    ),
    outputs=(Output(name="quotient", kind="value", dtype="float64", columns=("y",)),),
)


def contract_of(name: str) -> Contract:
    features = ("a", "b") if name == "chain" else ("a",)
    dtype = "int64" if name == "ngrams" else "float32"
    return Contract(
        features=tuple(Feature(name=feature) for feature in features),
        inputs=(Input(name="x", dtype=dtype, features=features),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )


def division(dividends: list[int], divisors: list[int]) -> dict[str, Any]:
    columns = {"dividend": dividends, "divisor": divisors}
    return {name: np.array(values, np.int64)[:, None] for name, values in columns.items()}


# --- the values that cross the pipes


@pytest.mark.parametrize("dtype", [*graphs.ELEMENT_TYPES])
def test_a_child_gives_what_a_session_here_gives(dtype: str) -> None:
    model = graphs.echo(dtype)
    values = np.arange(-3, 7).astype("int64").reshape(-1, 1)
    if dtype == "string":
        rows = np.array([["", "é", "a\0b", "\U0001f600", '"', "\\n", "x" * 99]], object).T
    else:
        rows = (np.abs(values) if dtype.startswith("u") else values).astype(dtype)
    if dtype.startswith("float"):
        rows[:3] = np.array([[np.nan], [np.inf], [-0.0]], dtype)
    for count in (len(rows), 1):
        feeds = {"x": rows[:count]}
        (here,) = OnnxSession(model, output_names=["y"]).run(feeds)
        (there,) = ChildSession(model, output_names=["y"]).run(feeds)
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)
        assert here.tobytes() == there.tobytes() or dtype == "string"


def test_maps_cross_too() -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)}
    for classes in (["no", "yes"], [0, 7]):
        model = graphs.zipmap(classes)
        here = OnnxSession(model, output_names=["maps"]).run(feeds)
        assert ChildSession(model, output_names=["maps"]).run(feeds) == here


def test_errors_are_those_of_a_session_here() -> None:
    assert_same_error(ArtifactError, lambda kind: kind(b"no model", output_names=["y"]))
    wrong = {"x": np.zeros((3, 1), np.int64)}
    echo = graphs.echo("float32")
    assert_same_error(ModelError, lambda kind: kind(echo, output_names=["y"]).run(wrong))


def assert_same_error(expected: type[Exception], act: Any) -> None:
    said = []
    for kind in (OnnxSession, ChildSession):
        with pytest.raises(expected) as raised:
            act(kind)
        said.append((type(raised.value), str(raised.value)))
    assert said[0] == said[1]


def test_a_frame_that_is_cut_off_is_none() -> None:
    stream = io.BytesIO()
    child.write_frame(stream, {"text": "é", "bytes": b"abc"})
    whole = stream.getvalue()
    assert list(child.frames(io.BytesIO(2 * whole))) == 2 * [{"text": "é", "bytes": b"abc"}]
    for length in range(len(whole)):
        assert list(child.frames(io.BytesIO(whole[:length]))) == []


PRINTS = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from dbt_onnx.kernel import child_session

answered = child_session._answered

def prints(*arguments):
    os.write(1, b"what native code has to say")
    return answered(*arguments)

child_session._answered = prints
child_session.serve()
"""


@pytest.fixture
def no_idle_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_idle", [])


@pytest.mark.usefixtures("no_idle_child")
def test_what_is_printed_in_a_child_does_not_come_between_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "_PROGRAM", PRINTS)
    monkeypatch.setattr(child_session, "_REPORT_SECONDS", 10)
    session = ChildSession(graphs.echo("float32"), output_names=["y"], max_seconds=5)
    assert session.run({"x": np.ones((1, 1), np.float32)})[0].tolist() == [[1]]
    session._forget()


def test_the_size_of_calls_that_a_child_has_measured_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = ChildSession(graphs.echo("float32"), output_names=["y"])
    monkeypatch.setattr(session, "_ask", lambda question: {"outputs": [], "batch_rows": 1_024})
    session.run({"x": np.zeros((3, 1), np.float32)})
    assert session.batch_rows == 1_024


# --- how the child ends


def test_the_row_that_kills_is_named_and_the_next_call_has_a_new_process() -> None:
    session = ChildSession(killers.division(), output_names=["quotient"])
    dividends, divisors = list(range(20_000)), [2] * 20_000
    dividends[12_345], divisors[12_345] = killers.SMALLEST, -1
    with pytest.raises(
        ModelCrashError, match=r"row 12,346 of 20,000: .*signal 8 \(SIGFPE\)"
    ) as died:
        session.run(division(dividends, divisors))
    assert died.value.row == 12_345
    assert session.run(division([7, 8], [2, 2]))[0].ravel().tolist() == [3, 4]


@pytest.mark.parametrize("name", ["chain", "far_region"])
def test_a_model_that_kills_while_it_is_loaded_is_no_session(name: str) -> None:
    with pytest.raises(
        ArtifactError, match="the process in which onnxruntime loaded the model was"
    ):
        ChildSession(killers.KILLERS[name](), output_names=["y"])


def test_a_shorter_chain_is_an_ordinary_model() -> None:
    session = ChildSession(killers.chain(1_000), output_names=["y"])
    assert session.run({"x": np.zeros((2, 2), np.float32)})[0].ravel().tolist() == [1, 1]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_who_ends_the_child_from_outside_blames_no_row(name: str) -> None:
    # a child inherits ignored signals: under nohup it would survive a SIGHUP
    before = signal.signal(getattr(signal, name), signal.SIG_DFL) if name == "SIGHUP" else None
    session = ChildSession(graphs.echo("float32"), output_names=["y"])
    if before is not None:
        signal.signal(signal.SIGHUP, before)
    assert session._child is not None
    os.kill(session._child._process.pid, getattr(signal, name))
    with pytest.raises(ScoringError, match=rf"killed by signal \d+ \({name}\)") as raised:
        session.run({"x": np.zeros((3, 1), np.float32)})
    assert not isinstance(raised.value, ModelError)
    assert len(session.run({"x": np.zeros((3, 1), np.float32)})[0]) == 3


def test_who_ends_the_child_while_it_loads_blames_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise ChildDiedError(-signal.SIGKILL, "")

    monkeypatch.setattr(ChildSession, "_ask", killed)
    with pytest.raises(ScoringError, match=r"killed by signal 9 \(SIGKILL\)"):
        ChildSession(graphs.echo("float32"), output_names=["y"])


def test_a_death_for_want_of_memory_blames_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def aborted(question: object) -> None:
        raise ChildDiedError(-signal.SIGABRT, "what():  std::bad_alloc")

    session = ChildSession(graphs.echo("float32"), output_names=["y"])
    monkeypatch.setattr(session, "_ask", aborted)
    with pytest.raises(ScoringError, match=r"signal 6 \(SIGABRT\).*bad_alloc") as raised:
        session.run({"x": np.zeros((3, 1), np.float32)})
    assert not isinstance(raised.value, ModelError)
    assert "lower batch_rows" in raised.value.hint


def test_the_last_line_that_a_child_said_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_PROGRAM", r"raise SystemExit('the first\nthe last\n\n')")
    with pytest.raises(ChildDiedError) as died:
        child.Child().receive(max_seconds=30)
    assert (died.value.how, died.value.last_words) == ("ended with exit code 1", "the last")


@pytest.mark.usefixtures("no_idle_child")
def test_a_child_that_dies_leaves_no_file_of_its_memory() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        session = ChildSession(graphs.echo("float32"), output_names=["y"])
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert session._child is not None
    assert resource.prlimit(session._child._process.pid, resource.RLIMIT_CORE)[0] == 0
    session._forget()


def test_a_ctrl_c_of_the_terminal_reaches_the_parent_only() -> None:
    session = ChildSession(graphs.echo("float32"), output_names=["y"])
    assert session._child is not None
    assert os.getpgid(session._child._process.pid) != os.getpgid(0)


def test_a_call_that_does_not_end_is_ended() -> None:
    session = ChildSession(killers.endless(), output_names=["y"], max_seconds=0.5)
    assert session._child is not None
    pid = session._child._process.pid
    began = time.monotonic()
    with pytest.raises(ScoringError, match=r"did not end within 0\.5 s"):
        session.run({"x": np.ones((3, 1), np.float32)})
    assert time.monotonic() - began < 30
    assert not is_running(pid)


def test_a_child_that_answers_nothing_is_overdue() -> None:
    silent = child.Child()
    with pytest.raises(OverdueError):
        silent.receive(max_seconds=0.05)
    silent.kill()


def test_one_child_serves_one_session_after_the_other() -> None:
    seen = set()
    for _ in range(3):
        session = ChildSession(graphs.echo("float32"), output_names=["y"])
        assert session._child is not None
        seen.add(session._child._process.pid)
        del session
    assert len(seen) == 1


def test_a_forked_process_does_not_use_its_parents_child(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, mine = child.Child(), child.Child()
    parents.owner = os.getppid()
    monkeypatch.setattr(child, "_idle", [mine, parents])
    assert child.borrow() is mine
    for each in (parents, mine):
        each.kill()


def test_several_threads_may_use_one_session() -> None:
    session = ChildSession(graphs.echo("float32"), output_names=["y"])
    right: list[int] = []

    def use(number: int) -> None:
        for _ in range(20):
            rows = np.full((number, 1), number, np.float32)
            if session.run({"x": rows})[0].tolist() == rows.tolist():
                right.append(number)

    threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(right) == sorted(20 * [1, 2, 3, 4])


PARENT = """
import sys, numpy as np
from dbt_onnx.kernel.child_session import ChildSession

session = ChildSession(open(sys.argv[1], "rb").read(), output_names=["y"])
print(session._child._process.pid, session.run({"x": np.ones((1, 1), np.float32)})[0][0, 0], flush=True)
input()
"""


def test_a_script_without_a_guard_may_use_one_and_its_death_ends_the_child(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graphs.echo("float32"))
    (tmp_path / "script.py").write_text(PARENT)
    # modules in the user's folder must not be imported by the child
    for name in ("numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    for folder in (tmp_path, Path.cwd()):
        with subprocess.Popen(
            [sys.executable, "-P", str(tmp_path / "script.py"), str(tmp_path / "model.onnx")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
        ) as parent:  # fmt: skip
            assert parent.stdout is not None
            pid, answer = parent.stdout.readline().split()
            assert float(answer) == 1
            parent.kill()
        deadline = time.monotonic() + 20
        while is_running(int(pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- register, verify, gate


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(item) for item in arguments], env={"COLUMNS": "300"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize("name", killers.KILLERS)
def test_register_says_how_the_process_ended_and_registers_nothing(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(killers.KILLERS[name]())
    names = ("--name", "m", "--version", "1", "--project-dir", tmp_path)
    features = ["--features", ",".join(contract_of(name).feature_names)]
    result = run("register", tmp_path / "m.onnx", *names, *features)
    assert result.exit_code == 1
    assert "the process in which" in result.output
    assert "killed by signal" in result.output
    assert not (tmp_path / "seeds").exists()
    assert not (tmp_path / "artifacts").exists()


@pytest.fixture(params=killers.KILLERS)
def registered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A project with a deadly version that was registered before such models were refused."""
    contract = contract_of(request.param)
    features = {feature.name: [3.0] for feature in contract.features}
    entry = write_artifact(
        tmp_path / "artifacts",
        killers.KILLERS[request.param](),
        model_name="m",
        model_version="1",
        contract=contract,
        parity={"features": features, "outputs": {"y": [1.0]}, "tolerance": 1e-5},
    )
    (tmp_path / "seeds").mkdir()
    add_entry(tmp_path / "seeds" / "model_registry.csv", entry)
    yield tmp_path, request.param


def test_verify_fails_and_says_how_the_process_ended(registered: tuple[Path, str]) -> None:
    result = run("verify", "--project-dir", registered[0])
    assert result.exit_code == 1
    assert "killed by signal" in result.output


def test_verify_without_a_sample_loads_the_model_in_a_child(tmp_path: Path) -> None:
    entry = write_artifact(
        tmp_path / "artifacts",
        killers.chain(),
        model_name="m",
        model_version="1",
        contract=contract_of("chain"),
    )
    (tmp_path / "seeds").mkdir()
    add_entry(tmp_path / "seeds" / "model_registry.csv", entry)
    result = run("verify", "--project-dir", tmp_path)
    assert result.exit_code == 1
    assert "killed by signal" in result.output


def test_the_gate_rejects_the_row_that_kills_as_the_run_does(tmp_path: Path) -> None:
    entry = write_artifact(
        tmp_path, killers.division(), model_name="m", model_version="1", contract=DIVISION
    )
    candidate = Candidate.load(tmp_path, entry)
    dividends, divisors = list(range(500)), [5] * 500
    dividends[77], divisors[77] = killers.SMALLEST, -1
    batch = pa.record_batch({"a": dividends, "b": divisors})
    answers = Answers.of(candidate, [batch], Counter())
    assert (answers.rows_scored, dict(answers.rejected_reasons)) == (
        499,
        {"model_crashed": 1},
    )
    assert answers.columns["y"].to_pylist() == [None if i == 77 else i // 5 for i in range(500)]


def test_the_gate_fails_a_model_that_kills_on_every_row(tmp_path: Path) -> None:
    entry = write_artifact(
        tmp_path, killers.division(), model_name="m", model_version="1", contract=DIVISION
    )
    batch = pa.record_batch({"a": [killers.SMALLEST] * 9, "b": [-1] * 9})
    with pytest.raises(ScoringError, match=r"signal 8 \(SIGFPE\)"):
        Answers.of(Candidate.load(tmp_path, entry), [batch], Counter())
