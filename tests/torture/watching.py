"""Watch a process for actions it does not need: using the network, loading code, opening other files."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_OPEN, _NONBLOCK = 0x20, os.O_NONBLOCK
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


def without_network() -> bool:
    """Give this process an empty network of its own. Returns whether the kernel allows it."""
    return any(_libc.unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK))


def packets_without_a_way() -> int:
    """Return how many packets of this process's network had no route, whether Python sent them or not."""
    header, values = (
        line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()[:2]
    )
    return int(values[header.index("OutNoRoutes")])


class Watch:
    """An audit hook that records what Python does, from now on until the process ends.

    `network` records attempts to connect, or to listen, anywhere but on this machine; they are also
    refused. `code` records unpickling, and whatever is loaded or started from `folder`. One case is
    left out: dbt's agate asks babel for number formats, and babel unpickles its own data.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.network: list[str] = []
        self.code: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            if isinstance(arguments[0], socket.socket) and _is_local(arguments):
                return
            self.network.append(f"{event} {arguments[1:] or arguments}")
            raise PermissionError(f"no network: {event}")
        said = _CODE.get(event)
        if said is not None:
            what = said(arguments)
            if self._folder in what or (event == "pickle.find_class" and "'babel." not in what):
                self.code.append(f"{event} {what}")


def _is_local(arguments: tuple[Any, ...]) -> bool:
    """Whether the address is on this machine. urllib3 binds to ::1 on import, to find out if IPv6 works."""
    stream, *address = arguments
    return stream.family == socket.AF_UNIX or "::1" in str(address) or "'127." in str(address)


_NETWORK = {
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request",
    "http.client.connect", "ftplib.connect", "smtplib.connect",
}  # fmt: skip
_CODE: dict[str, Callable[[tuple[Any, ...]], str]] = {
    "pickle.find_class": str,
    "ctypes.dlopen": str,
    "import": lambda arguments: str(arguments[1]),
    "exec": lambda arguments: str(getattr(arguments[0], "co_filename", "")),
    "compile": lambda arguments: str(arguments[1]),
    "subprocess.Popen": lambda arguments: str(arguments[:2]),
    "os.system": str,
    "os.exec": str,
    "os.posix_spawn": str,
    "os.spawn": str,
}


def mapped(folder: Path) -> list[str]:
    """Return the files below a folder that this process has mapped as code, whoever loaded them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted(
        {line.split(maxsplit=5)[5] for line in lines if str(folder) in line and "x" in line[:60]}
    )


class Opened:
    """Records which files of a folder are opened, in Python or not."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = _libc.inotify_init1(_NONBLOCK)
        if _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _OPEN) < 0:
            raise OSError(ctypes.get_errno(), "no inotify", str(folder))

    def names(self) -> set[str]:
        """Return the names opened since the last call."""
        found = set()
        try:
            while content := os.read(self._descriptor, 1 << 16):
                while content:
                    _, _, _, length = _EVENT.unpack_from(content)
                    name = content[_EVENT.size : _EVENT.size + length]
                    found.add(os.fsdecode(name.rstrip(b"\0")))
                    content = content[_EVENT.size + length :]
        except BlockingIOError:
            return found - {""}
        return found - {""}
