"""A session takes bytes and tensors and returns outputs; onnxruntime's errors become the package's own."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import graphs
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from dbt_onnx.artifacts.graph import without_zipmaps
from dbt_onnx.errors import ArtifactError, ScoringError
from dbt_onnx.kernel import native
from dbt_onnx.kernel.session import OnnxSession

if TYPE_CHECKING:
    from pathlib import Path

ROWS = np.array([[1, 2], [3, 4], [0, -1]], dtype=np.float32)
# y = 2a - b + 0.5
ANSWERS = [[0.5], [2.5], [1.5]]


def test_a_model_gives_what_a_hand_computes() -> None:
    (y,) = OnnxSession(graphs.linear(), output_names=["y"]).run({"x": ROWS})
    assert y.tolist() == ANSWERS


@pytest.mark.parametrize("rank", [1, 2])
def test_inputs_are_fed_by_name(rank: int) -> None:
    a, b = ROWS[:, :1], ROWS[:, 1:]
    feeds = {"b": b, "a": a} if rank == 2 else {"b": b.ravel(), "a": a.ravel()}
    (y,) = OnnxSession(graphs.linear_by_column(rank=rank), output_names=["y"]).run(feeds)
    assert y.ravel().tolist() == [0.5, 2.5, 1.5]


@pytest.mark.parametrize("names", [["root", "inverse"], ["inverse", "root"], ["inverse"]])
def test_outputs_come_in_the_order_asked_for_and_only_those(names: list[str]) -> None:
    answers = {"root": [[2.0]], "inverse": [[0.25]]}
    session = OnnxSession(graphs.square_root_and_reciprocal(), output_names=names)
    outputs = session.run({"a": np.array([[4.0]], np.float32)})
    assert [output.tolist() for output in outputs] == [answers[name] for name in names]


@pytest.mark.parametrize("dtype", list(graphs.ELEMENT_TYPES))
@pytest.mark.parametrize("rank", [1, 2])
def test_every_tensor_type_goes_in_and_comes_out(dtype: str, rank: int) -> None:
    x = np.array(["ü", ""], object) if dtype == "string" else np.array([1, 0]).astype(dtype)
    x = x.reshape((2,) if rank == 1 else (2, 1))
    (y,) = OnnxSession(graphs.echo(dtype, rank=rank), output_names=["y"]).run({"x": x})
    assert y.dtype == x.dtype
    assert y.tolist() == x.tolist()


def test_a_batch_fixed_at_one_runs_row_by_row() -> None:
    session = OnnxSession(graphs.fixed_batch(), output_names=["y"], batch_rows=1)
    assert session.run({"x": ROWS})[0].tolist() == ANSWERS
    with pytest.raises(ScoringError, match="index: 0 Got: 3 Expected: 1"):
        OnnxSession(graphs.fixed_batch(), output_names=["y"]).run({"x": ROWS})


def test_maps_of_row_by_row_runs_are_joined() -> None:
    model = graphs.zipmap(["no", "yes"])
    whole = OnnxSession(model, output_names=["maps"]).run({"x": ROWS})
    by_row = OnnxSession(model, output_names=["maps"], batch_rows=1).run({"x": ROWS})
    assert by_row == whole
    assert whole[0][1] == {"no": 3.0, "yes": 4.0}


@pytest.mark.parametrize("classes", [("no", "yes"), (0, 1)])
def test_a_zipmap_is_run_as_the_tensor_that_it_is_made_of(classes: tuple[int | str, ...]) -> None:
    model = graphs.zipmap(classes)
    (maps,) = OnnxSession(model, output_names=["maps"]).run({"x": ROWS})
    tensors = without_zipmaps(model, {"maps": classes})
    (matrix,) = OnnxSession(tensors, output_names=["maps"]).run({"x": ROWS})
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[row[name] for name in classes] for row in maps]


def test_a_zipmap_of_other_classes_stays_as_it_is() -> None:
    model = without_zipmaps(graphs.zipmap(["no", "yes"]), {"maps": ("yes", "no")})
    (maps,) = OnnxSession(model, output_names=["maps"]).run({"x": ROWS})
    assert maps[1] == {"no": 3.0, "yes": 4.0}


def test_calls_have_the_rows_that_were_measured_to_be_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # start and end of one call per size, smallest first; the largest takes three times as long per row
    clock = iter([0.0, 0.0005, 0.0, 0.004, 0.0, 0.048])
    monkeypatch.setattr("dbt_onnx.kernel.session.time.perf_counter", lambda: next(clock))
    session = OnnxSession(graphs.linear(), output_names=["y"])
    session.run({"x": np.ones((100, 2), np.float32)})
    assert session.batch_rows == 8_192  # too few rows to measure
    (y,) = session.run({"x": np.ones((40_000, 2), np.float32)})
    assert session.batch_rows == 8_192  # 8,192 is as fast per row as 1,024, and 32,768 is slower
    assert len(y) == 40_000
    clock = iter([0.0, 0.00025, 0.0, 0.004, 0.0, 0.048])
    session = OnnxSession(graphs.linear(), output_names=["y"])
    session.run({"x": np.ones((40_000, 2), np.float32)})
    assert session.batch_rows == 1_024
    clock = iter([0.0, 0.5, 0.0, 8.0])  # after one slow call, no larger size is tried
    session = OnnxSession(graphs.linear(), output_names=["y"])
    session.run({"x": np.ones((40_000, 2), np.float32)})
    assert session.batch_rows == 1_024
    assert OnnxSession(graphs.linear(), output_names=["y"], batch_rows=7).batch_rows == 7


def test_settings_say_what_a_replay_needs() -> None:
    session = OnnxSession(graphs.linear(), output_names=["y"], threads=1)
    assert (session.onnxruntime_version, session.provider, session.threads) == (
        ort.__version__,
        "CPUExecutionProvider",
        1,
    )
    assert session._session.get_providers() == ["CPUExecutionProvider"]
    assert session._session.get_session_options().intra_op_num_threads == 1


def test_threads_are_the_cores_of_this_process_unless_said() -> None:
    session = OnnxSession(graphs.linear(), output_names=["y"])
    assert 1 <= session.threads <= (os.cpu_count() or 1)
    assert session._session.get_session_options().intra_op_num_threads == session.threads


def test_a_model_that_fails_says_on_what_and_what_onnxruntime_said() -> None:
    session = OnnxSession(graphs.lookup(), output_names=["y"])
    with pytest.raises(ScoringError) as caught:
        session.run({"i": np.array([[0], [7]], np.int64)})
    assert caught.value.message.startswith("the model failed on i int64[2, 1]: ")
    assert "indices element out of data bounds, idx=7" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"x": ROWS.astype(np.float64)}, "expected: (tensor(float))"),
        ({"z": ROWS}, "Required inputs"),
        ({"x": ROWS[:, :1]}, "index: 1 Got: 1 Expected: 2"),
    ],
)
def test_wrong_tensors_are_a_scoring_error(feeds: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ScoringError) as caught:
        OnnxSession(graphs.linear(), output_names=["y"]).run(feeds)
    assert said in caught.value.message


@pytest.mark.parametrize("broken", [b"", b"junk", graphs.linear()[:40]], ids=["", "junk", "cut"])
def test_bytes_that_onnxruntime_cannot_load_are_an_artifact_error(broken: bytes) -> None:
    with pytest.raises(ArtifactError, match="cannot load the model") as caught:
        OnnxSession(broken, output_names=["y"])
    assert ort.__version__ in caught.value.message


def test_the_format_of_onnxruntimes_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ort"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(graphs.linear(), options, providers=["CPUExecutionProvider"])
    model_bytes = path.read_bytes()
    assert ort.InferenceSession(model_bytes, providers=["CPUExecutionProvider"]).get_inputs()
    with pytest.raises(ArtifactError):
        OnnxSession(model_bytes, output_names=["y"])


def test_onnxruntimes_warnings_stay_out_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    model = graphs.build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [graphs.tensor("x")],
        [graphs.tensor("y")],
        constants=[graphs.constant("never_read", [1.0])],
    )
    ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert "never_read" in capfd.readouterr().err
    OnnxSession(model, output_names=["y"])
    assert capfd.readouterr().err == ""


def endless(*nodes: Any, carried: str = "next") -> bytes:
    """`y` is the result of a loop over `x` that never ends."""
    body = helper.make_graph(
        list(nodes),
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(carried, TensorProto.FLOAT, None),
        ],
    )
    return graphs.build(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)],
        [graphs.tensor("x")],
        [graphs.tensor("y", shape=(None, None))],
        constants=[graphs.constant("yes", True, "bool")],
    )


def test_a_call_that_does_not_end_is_stopped() -> None:
    model = endless(helper.make_node("Add", ["value", "value"], ["next"]))
    session = OnnxSession(model, output_names=["y"], max_seconds=0.2)
    with pytest.raises(ScoringError) as caught:
        session.run({"x": ROWS[:, :1]})
    assert caught.value.message == (
        "the model failed on x float32[3, 1]: a call of at most 8,192 rows did not end within 0.2 s"
    )
    assert "batch_rows in score()" in caught.value.hint


def test_a_call_that_cannot_be_stopped_is_left_and_the_process_ends() -> None:
    # a loop without operators never checks whether it should stop
    code = (
        "import sys, numpy as np\n"
        "from dbt_onnx.kernel import native, session\n"
        "native._GRACE_SECONDS = 0.1\n"
        "model = sys.stdin.buffer.read()\n"
        "scorer = session.OnnxSession(model, output_names=['y'], max_seconds=0.2)\n"
        "try: scorer.run({'x': np.ones((3, 1), np.float32)})\n"
        "except session.ScoringError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=endless(carried="value"),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"did not end within 0.2 s" in done.stdout
    assert done.stderr == b""


def test_a_model_that_does_not_load_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # squares of a matrix, computed while the model is loaded
    nodes = [helper.make_node("MatMul", [f"m{i}"] * 2, [f"m{i + 1}"]) for i in range(20)]
    model = graphs.build(
        [*nodes, helper.make_node("MatMul", ["x", "m20"], ["y"])],
        [graphs.tensor("x", shape=("N", 1024))],
        [graphs.tensor("y", shape=("N", 1024))],
        constants=[graphs.constant("m0", np.zeros((1024, 1024)))],
    )
    monkeypatch.setattr(native, "_GRACE_SECONDS", 0.01)
    with pytest.raises(ArtifactError, match=r"did not load the model within 0\.01 s"):
        OnnxSession(model, output_names=["y"], max_seconds=0.01)


def test_calls_are_timed_one_by_one() -> None:
    # each call takes microseconds, but all of them together exceed the limit
    session = OnnxSession(graphs.linear(), output_names=["y"], batch_rows=1, max_seconds=0.1)
    (y,) = session.run({"x": np.ones((50_000, 2), np.float32)})
    assert len(y) == 50_000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux bounds memory")
def test_a_model_that_wants_too_much_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_left", lambda: iter([2**28]))
    model = endless(helper.make_node("Concat", ["value", "value"], ["next"], axis=0))
    session = OnnxSession(model, output_names=["y"])
    with pytest.raises(ScoringError) as caught:
        session.run({"x": ROWS[:, :1]})
    # the message of onnxruntime, or that of C++
    assert re.search("Failed to allocate memory|std::bad_alloc", caught.value.message)
    assert "more memory than this machine has left" in caught.value.hint


def test_a_session_that_is_gone_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    session = OnnxSession(graphs.linear(), output_names=["y"])
    session.run({"x": ROWS})
    own = set(threading.enumerate()) - before
    assert len(own) == 1
    del session
    gc.collect()
    for thread in own:
        thread.join(5)
        assert not thread.is_alive()
