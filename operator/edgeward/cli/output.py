"""-o json and -o yaml."""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml


def show(document: dict[str, Any], form: str) -> None:
    """The document on standard output."""
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        yaml.safe_dump(document, sys.stdout, sort_keys=False, allow_unicode=True, width=120)
