"""What ends a command, for a person: what is wrong, what to do next, and the exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of the commands that people run; docs/what-if.md lists them."""

    DONE = 0
    FAILED = 1
    """something went wrong that has no code of its own"""
    INPUT = 2
    """an option, a file or a name is wrong"""
    UNREACHABLE = 4
    """no cluster, no rights there, or no Edgeward in it"""
    NOT_FOUND = 5
    DIFFERS = 6
    """a replay that gives another plan than the one that was recorded"""


class CommandError(Exception):
    def __init__(self, message: str, *, remedy: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code
