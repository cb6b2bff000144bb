"""Text for people: columns, width, and colour only where a terminal shows it."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from edgeward.fleet.names import is_pool, site_of_pool

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
GAP = "  "


def place_name(node: str) -> str:
    """A node, or what stands for any node of an elastic site, for people."""
    return f"any node of {site_of_pool(node)}" if is_pool(node) else node


@dataclass(frozen=True, slots=True)
class Page:
    """Where the text goes to: how wide it is, and whether it shows colour."""

    width: int = 100
    colour: bool = False

    def paint(self, text: str, how: str) -> str:
        return f"\x1b[{_CODES[how]}m{text}\x1b[0m" if self.colour and text else text

    def title(self, text: str) -> str:
        return self.paint(text, "bold")

    def wrap(self, text: str, *, indent: str = "  ", hang: str = "  ") -> list[str]:
        """Paragraphs within the width; what is one long word stays whole, so that it can be copied."""
        lines = textwrap.wrap(
            text,
            width=max(self.width, 40),
            initial_indent=indent,
            subsequent_indent=indent + hang,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return lines or [indent.rstrip()]

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        indent: str = "  ",
        right: frozenset[int] = frozenset(),
    ) -> list[str]:
        """Aligned columns. The last one takes what is left of the width and wraps below itself.

        right: columns of numbers.
        """
        if not rows:
            return []
        every = [header, *rows] if any(header) else list(rows)
        widths = [max(len(row[at]) for row in every) for at in range(len(header))]
        before = len(indent) + sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        last = self.width - before
        # Where nothing sensible is left, the last column has a line of its own below.
        beside = last >= min(24, widths[-1])
        lines = []
        for number, row in enumerate(every):
            cells = [
                cell.rjust(width) if at in right else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row[:-1], widths[:-1], strict=True))
            ]
            head = indent + GAP.join(cells)
            rest = textwrap.wrap(
                row[-1],
                width=max(last, 24) if beside else max(self.width - len(indent) - 4, 24),
                break_long_words=False,
                break_on_hyphens=False,
            )
            if beside:
                made = [(head + GAP + (rest[0] if rest else "")).rstrip()]
                made += [" " * before + line for line in rest[1:]]
            else:
                made = [head.rstrip()] + [indent + "    " + line for line in rest]
            if number == 0 and any(header):
                made = [self.paint(line, "dim") for line in made]
            lines += made
        return lines


def page_for(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Page:
    """Colour on a terminal only, and never with NO_COLOR (https://no-color.org) or TERM=dumb."""
    terminal = stream.isatty()
    width = shutil.get_terminal_size((100, 40)).columns if terminal or "COLUMNS" in environ else 100
    colour = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Page(width=max(width, 40), colour=colour)
