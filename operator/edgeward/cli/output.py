"""-o table, json or yaml."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import yaml


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="default: table, to be read"
    )


def show(document: dict[str, Any], form: str) -> None:
    """The document on standard output."""
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        yaml.safe_dump(document, sys.stdout, sort_keys=False, allow_unicode=True, width=120)
