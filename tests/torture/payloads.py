"""Files that run code when they are loaded as their type: the code makes a folder, which shows that it has run."""

from __future__ import annotations

import ctypes
import io
import marshal
import os
import pickle
import py_compile
import runpy
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Payload:
    """A file with code in it. `load` runs the code: a control, without which a payload that does
    nothing proves nothing.
    """

    name: str
    content: bytes
    load: Callable[[Path], Any]


class _Folder:
    def __init__(self, told: Path) -> None:
        self._told = told

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._told),)


def payloads(folder: Path, told: Path) -> list[Payload]:
    """Return pickles and formats that contain them, Python files and a shared library: all make the folder `told`."""
    source = f"import os\nos.mkdir({str(told)!r})\n"
    pickles = {f"model.{number}.pkl": pickle.dumps(_Folder(told), number) for number in range(6)}
    folder.mkdir()
    joblib.dump(_Folder(told), folder / "joblib", compress=3)
    (folder / "source.py").write_text(source)
    py_compile.compile(str(folder / "source.py"), str(folder / "pyc"), doraise=True)
    python = ("model.py", "__init__.py", "conftest.py", "sitecustomize.py", "card.py", "json.py")
    code = marshal.dumps(compile(source, "model", "exec"))
    return [
        *(Payload(name, content, _unpickle) for name, content in pickles.items()),
        Payload("model.joblib", (folder / "joblib").read_bytes(), joblib.load),
        Payload("model.npy", _saved(np.save, told), _load_array),
        Payload("model.npz", _saved(np.savez, told), lambda path: _load_array(path)["arr_0"]),
        Payload("model.pt", _zipped(pickles["model.2.pkl"]), _load_zipped),
        *(Payload(name, source.encode(), _run) for name in python),
        Payload("model.pyc", (folder / "pyc").read_bytes(), _run),
        Payload("model.marshal", code, lambda path: exec(marshal.loads(path.read_bytes()))),
        Payload("model.pth", source.replace("\n", ";", 1).encode(), lambda path: exec(path.read_text())),
        Payload("model.yml", _yaml(told), lambda path: yaml.unsafe_load(path.read_text())),
        Payload("model.sh", f"mkdir {told}\n".encode(), lambda path: subprocess.call(["sh", path])),
        *_libraries(folder, told),
    ]  # fmt: skip


def _libraries(folder: Path, told: Path) -> list[Payload]:
    """A library of custom operators that runs code as soon as it is loaded."""
    if shutil.which("cc") is None:
        return []
    source = f"""
        #include <sys/stat.h>
        __attribute__((constructor)) static void load(void) {{ mkdir("{told}", 0777); }}
        void *RegisterCustomOps(void *options, const void *api) {{ return 0; }}
    """
    (folder / "library.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "library"), str(folder / "library.c")]
    subprocess.run(command, check=True)
    return [Payload("custom_ops.so", (folder / "library").read_bytes(), ctypes.CDLL)]


def _unpickle(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def _run(path: Path) -> Any:
    return runpy.run_path(str(path))


def _load_array(path: Path) -> Any:
    return np.load(path, allow_pickle=True)


def _load_zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("archive/data.pkl"))


def _zipped(content: bytes) -> bytes:
    """Return a zip archive in the format that torch.save writes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return stream.getvalue()


def _saved(save: Callable[..., None], told: Path) -> bytes:
    stream = io.BytesIO()
    save(stream, np.array([_Folder(told)], dtype=object))
    return stream.getvalue()


def _yaml(told: Path) -> bytes:
    return f"!!python/object/apply:os.mkdir ['{told}']\n".encode()
