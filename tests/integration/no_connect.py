"""Runs a command that the kernel kills (SIGSYS) as soon as it, or a child of it, connects a socket or sends a datagram to
an address:    python no_connect.py COMMAND...

By a seccomp filter (Documentation/userspace-api/seccomp_filter.rst of the Linux sources; the filter's form is classic
BPF), which is inherited over exec and cannot be taken off. Listening and answering need none of these calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NUMBER, _FIFTH_ARGUMENT = 0, 16 + 4 * 8  # offsets in struct seccomp_data
# connect, sendto, sendmsg, sendmmsg
_CALLS = {"x86_64": (42, 44, 46, 307), "aarch64": (203, 206, 211, 269)}


def program() -> bytes:
    """sendto is allowed where its address is null: that is send on a connected pair, as the event loop wakes itself."""
    connect, sendto, sendmsg, sendmmsg = _CALLS[platform.machine()]
    return b"".join(
        struct.pack("HBBI", *step)
        for step in (
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_IF_EQUAL, 7, 0, connect),
            (_JUMP_IF_EQUAL, 6, 0, sendmsg),
            (_JUMP_IF_EQUAL, 5, 0, sendmmsg),
            (_JUMP_IF_EQUAL, 0, 3, sendto),
            (_LOAD, 0, 0, _FIFTH_ARGUMENT),
            (_JUMP_IF_EQUAL, 1, 2, 0),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _KILL_PROCESS),
        )
    )


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program())

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    wanted = Program((len(steps) - 1) // 8, ctypes.cast(steps, ctypes.c_void_p))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(wanted), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
