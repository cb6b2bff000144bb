"""The options of what people run, apart from what runs: a command imports its own parts alone, once it is chosen."""

from __future__ import annotations

import argparse

OPERATOR_NAMESPACE = "edgeward"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Each command sets `runs`: the module of this package and the function in it that takes the arguments."""
    _explain(commands)
    _what_if(commands)
    _snapshot(commands)
    _plan(commands)
    _release(commands)


def _explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "explain",
        help="why a job is where it is, and why not elsewhere",
        description="Tells from a job's status why it is where it is, why not elsewhere, and what would change it. "
        "Needs the right to get InferenceJobs; to list them in all namespaces shows who is ahead.",
    )
    parser.add_argument("job", metavar="JOB", help="name of an InferenceJob, or NAMESPACE/NAME")
    parser.add_argument("-n", "--namespace", help="its namespace (default: that of the kubeconfig's context)")
    _format(parser)
    _cluster(parser)
    parser.set_defaults(runs=("explain", "explain"))


def _what_if(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "what-if",
        help="what a change would place, move, preempt and refuse",
        description="Runs the operator's own planner on the fleet as it is and on the fleet with the changes, and tells "
        "the difference, and the least extra capacity that places all that waits. Changes may be combined; without any, "
        "it tells what waits. Nothing is written anywhere.",
    )
    change = parser.add_argument_group("what changes")
    change.add_argument(
        "-f", "--filename", metavar="FILE", action="append", default=[],
        help="InferenceJobs and ModelReleases: new ones, or other specs for those that are there; - is standard input",
    )  # fmt: skip
    change.add_argument("--without-site", metavar="SITE", action="append", default=[], help="as if it were not there")
    change.add_argument("--without-node", metavar="NODE", action="append", default=[], help="as if it were not there")
    change.add_argument(
        "--add-node", metavar="SHAPE", action="append", default=[],
        help="tier=edge,cpu=4,memory=8Gi[,site=S][,count=N][,name=N][,arch=A][,pods=N][,storage=20Gi][,label.KEY=V]"
        "[,example.com/npu=N]",
    )  # fmt: skip
    change.add_argument(
        "--set-weight", metavar="TERM=WEIGHT", action="append", default=[], help="of a term of the score: load=2"
    )
    change.add_argument("-n", "--namespace", help="of what names none in FILE (default: that of the context)")
    search = parser.add_argument_group("what is looked for")
    search.add_argument(
        "--shape", metavar="SHAPE", action="append", default=[],
        help="kinds of node to find the least extra capacity with, as for --add-node (default: of each tier the most common)",
    )  # fmt: skip
    search.add_argument("--no-search", action="store_true", help="do not look for the least extra capacity")
    where = parser.add_argument_group("which fleet")
    where.add_argument("--snapshot", metavar="FILE", help="of `edgeward snapshot`, instead of a cluster's")
    _format(parser)
    _cluster(parser)
    parser.set_defaults(runs=("whatif", "what_if"))


def _snapshot(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "snapshot",
        help="write the fleet as the operator sees it",
        description="Writes the fleet as the operator saw it in its last pass: nodes, sites, jobs, live figures with "
        "their ages, and the settings. No Secret and nothing of a podTemplate is in it.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="where to (default: standard output); .gz packs it"
    )
    _cluster(parser)
    parser.set_defaults(runs=("snapshot", "take"))


def _plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "plan",
        help="plan for a snapshot, without a cluster",
        description="Runs the operator's own planner on a snapshot and prints the plan as canonical JSON. Exit code 6 "
        "when it is not, byte for byte, the plan that the operator made for it.",
    )
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="a file of `edgeward snapshot`, - for standard input")
    parser.set_defaults(runs=("snapshot", "replay"))


_VERBS = {
    "status": "how far it is: waves, sites, what it waits for",
    "history": "the versions that finished",
    "diff": "what differs between what is wanted, what finished last and what sites serve",
    "pause": "hold the rollout where it is",
    "promote": "go on: end a pause, or the watch over this wave",
    "abort": "take every site back to the version that finished last",
    "retry": "try a version again that was refused",
}


def _release(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "release",
        help="how far a new model version is, and a word to its rollout",
        description="Shows a ModelRelease's rollout, or tells it something. Nothing of its spec is written: a command is an "
        "annotation that the operator acts on once, so Git and Argo CD keep the last word on what is wanted.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in _VERBS.items():
        one = verbs.add_parser(verb, help=text)
        one.add_argument("release", metavar="RELEASE", help="name of a ModelRelease, or NAMESPACE/NAME")
        one.add_argument("-n", "--namespace", help="its namespace (default: that of the kubeconfig's context)")
        if verb == "status":
            one.add_argument("-w", "--watch", action="store_true", help="look again every second")
        if verb in ("status", "diff"):
            _format(one)
        _cluster(one)
        one.set_defaults(runs=("release", "release"))


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="default: table, to be read"
    )


def _cluster(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("which cluster")
    where.add_argument("--kubeconfig", metavar="FILE", help="instead of $KUBECONFIG or ~/.kube/config")
    where.add_argument("--context", metavar="NAME", help="a context of the kubeconfig other than the present one")
    where.add_argument(
        "--operator-namespace",
        metavar="NAMESPACE",
        default=OPERATOR_NAMESPACE,
        help="where Edgeward is installed (default: %(default)s)",
    )
