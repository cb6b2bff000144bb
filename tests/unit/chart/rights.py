"""Which rights the operator needs, read from its source: every call on a Client, and the kinds that kopf watches.

A call names its kind by a constant of cluster/resources.py, or by a loop over a tuple of them, or it is listed below
under PASSED_ON. A new call that is none of these fails the test, so that nobody forgets the chart.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgeward.agent.agent import WATCHED as AGENT_WATCHES
from edgeward.cluster import resources
from edgeward.cluster.resources import ASSIGNMENTS, LEASES, SERVICES, Resource
from edgeward.hub.hub import WATCHED as HUB_WATCHES

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "operator" / "edgeward"
TEMPLATES = ROOT / "charts" / "edgeward" / "templates"

VERBS = {
    "apply": ("create", "patch"),  # server-side apply is a PATCH that is checked as a create when there is nothing yet
    "create": ("create",),
    "replace": ("update",),
    "merge": ("patch",),
    "delete": ("delete",),
    "get": ("get",),
    "list": ("list",),
}
REQUESTS = {"POST": "create", "PUT": "update", "PATCH": "patch", "GET": "get", "DELETE": "delete"}
CONSTANTS = {name: value for name, value in vars(resources).items() if isinstance(value, Resource)}
OWN_NAMESPACE = (ASSIGNMENTS, LEASES)
"""written in the operator's own namespace only; lists and watches are made over all namespaces, but for Leases"""

WRAPPERS = {
    ("hub/writer.py", "apply"): "apply",
    ("hub/reporter.py", "_decide"): "status",
    ("agent/removal.py", "_delete"): "delete",
}
"""methods that hand their first argument, a kind, on to the client: their callers are looked at instead"""
LATER = {("hub/reporter.py", "_write_due")}
"""methods that write what such a method was given before"""


class Unknown(Exception):
    """A call whose kind this module cannot tell."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    everywhere: bool
    """in all namespaces (ClusterRole), not only in the operator's own (Role)"""
    group: str
    resource: str
    """plural, with /status for the subresource"""
    verb: str


NAMED = {Right(True, "", "secrets", "get")}
"""given for the Secrets that are named in the chart's tracking.pullSecrets, each by its name"""
PEOPLES = frozenset(f"cli/{name}.py" for name in ("explain", "reach", "source"))
"""what people run with their own rights, not the operator with its"""


def needed() -> set[Right]:
    watched = dict.fromkeys(HUB_WATCHES + AGENT_WATCHES)
    rights = {_right(kind, verb) for kind in watched for verb in ("list", "watch")}
    made = _children()
    passed_on = {
        ("cluster/resync.py", "seed"): tuple(watched),
        ("cluster/resync.py", "compare"): tuple(watched),
        ("agent/agent.py", "_apply"): made,
        ("agent/agent.py", "_refuse_foreign"): (SERVICES,),
    }
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        # The other commands run with the rights of whoever types them.
        if name == "cluster/client.py" or (name.startswith("cli/") and name != "cli/operator.py"):
            continue
        for function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
            for call in _calls(function):
                rights |= _of(name, function, call, passed_on)
    return rights


def granted(documents: list[dict[str, Any]]) -> set[Right]:
    """What the rules of a ClusterRole and of a Role allow, names of single objects left out."""
    return {
        Right(document["kind"] == "ClusterRole", group, resource, verb)
        for document in documents
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rules_of(template: str, kind: str) -> dict[str, Any]:
    """The rules of the one role in a template file. They hold no template expressions, so they read as YAML."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    found = re.search(r"^rules:\n(?:(?: .*)?\n)+", text, re.MULTILINE)
    assert found, template
    return {"kind": kind, **yaml.safe_load(found[0])}


def _of(
    name: str, function: ast.AST, call: ast.Call, passed_on: dict[tuple[str, str], tuple[Resource, ...]]
) -> set[Right]:
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    assert isinstance(call.func, ast.Attribute)
    method, owner = call.func.attr, ast.unparse(call.func.value)
    here = (name, function.name)
    if here in LATER:
        return set()
    if owner in ("self._client", "self._hub", "self.client", "client"):
        if method == "request":
            kinds = tuple(kind for constant, kind in CONSTANTS.items() if _mentions(function, constant))
            verb = REQUESTS[ast.literal_eval(call.args[0])]
            return {_right(kind, verb) for kind in kinds}
        if method not in VERBS or here in WRAPPERS:
            return set()
    elif owner == "self._writer":
        method = WRAPPERS["hub/writer.py", method]
    elif owner == "self" and (name, method) in WRAPPERS and here not in WRAPPERS:
        method = WRAPPERS[name, method]
    else:
        return set()
    kinds = passed_on.get(here) or _kinds(call.args[0], function)
    if not kinds:
        raise Unknown(f"{name}:{call.lineno} {ast.unparse(call)}: which kind?")
    subresource = next((ast.literal_eval(item.value) for item in call.keywords if item.arg == "subresource"), "")
    if method == "status" or subresource:
        # A subresource is never created on its own.
        return {_right(kind, "patch", "/status") for kind in kinds}
    return {_right(kind, verb) for kind in kinds for verb in VERBS[method]}


def _right(kind: Resource, verb: str, subresource: str = "") -> Right:
    everywhere = kind not in OWN_NAMESPACE or (verb in ("list", "watch") and kind is not LEASES)
    return Right(everywhere, kind.group, kind.plural + subresource, verb)


def _kinds(argument: ast.expr, function: ast.AST) -> tuple[Resource, ...]:
    if not isinstance(argument, ast.Name):
        return ()
    if argument.id in CONSTANTS:
        return (CONSTANTS[argument.id],)
    for loop in ast.walk(function):
        if isinstance(loop, ast.For) and ast.unparse(loop.target) == argument.id and isinstance(loop.iter, ast.Tuple):
            return tuple(CONSTANTS[ast.unparse(item)] for item in loop.iter.elts)
    return ()


def _children() -> tuple[Resource, ...]:
    """The kinds that an Assignment is rendered to."""
    tree = ast.parse((SOURCE / "agent" / "render.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Child"]
    named = [ast.unparse(call.args[0]) for call in calls]
    for name in named:
        # A child made from a child is of the same kind.
        if name not in CONSTANTS and name != "child.resource":
            raise Unknown(f"agent/render.py: Child({name}, ...): which kind?")
    return tuple(dict.fromkeys(CONSTANTS[name] for name in named if name in CONSTANTS))


def _mentions(function: ast.AST, constant: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == constant for node in ast.walk(function))


def _functions(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _calls(function: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
