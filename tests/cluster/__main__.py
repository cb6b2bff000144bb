"""`python -m tests.cluster up|down|status|build|packages|images|load`: see docs/cluster.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .binaries import Binaries
from .catalog import GROUPS
from .cluster import NODE_PACKAGES, Cluster
from .images import IMAGES, ImageBuilder
from .packages import LIST, ensure_packages, read_list
from .paths import cache_root, clusters_root
from .plan import default_nodes
from .progress import ClusterError, Progress


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="The embedded real cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--name", default="edgeward", help="several clusters run side by side, each with a name (default: edgeward)"
    )
    up = commands.add_parser("up", parents=[named], help="start it; builds what is missing first")
    up.add_argument("--metrics-server", action="store_true", help="also serve the metrics.k8s.io API")
    up.add_argument(
        "--no-labels", action="store_true", help="leave edgeward.dev/tier and edgeward.dev/site off the nodes"
    )
    commands.add_parser("down", parents=[named], help="end it and remove everything it made")
    status = commands.add_parser("status", help="what runs")
    status.add_argument("--name", default="", help="one cluster only; exit code 1 unless it is up")
    build = commands.add_parser("build", help="build the programs from source, ahead of time")
    build.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    packages = commands.add_parser("packages", help="install the Debian packages that are missing (needs root)")
    packages.add_argument(
        "packages",
        nargs="*",
        metavar="PACKAGE",
        help="of tests/cluster/packages.txt, or `node`: all that a cluster with nodes needs; default: all",
    )
    images = commands.add_parser("images", help="build the project's images")
    images.add_argument("images", nargs="*", metavar="IMAGE", help=f"of {', '.join(IMAGES)}; default: all")
    images.add_argument("--tool", choices=["buildah", "docker"], help="default: buildah, else docker")
    images.add_argument("--base", help="a base image of your own, with Python 3.11 or newer and pip")
    images.add_argument("--load", metavar="NAME", help="then import them into this cluster's nodes")
    load = commands.add_parser("load", parents=[named], help="import image archives into every node")
    load.add_argument("archives", nargs="+", type=Path)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    nodes = default_nodes(labelled=not arguments.no_labels)
    cluster = Cluster(arguments.name, nodes=nodes, metrics_server=arguments.metrics_server)
    cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"kubectl of the same version: {cluster.binaries.path('kubectl')}")
    print(f"Prometheus: {cluster.prometheus_url}")
    return 0


def _packages(wanted: Sequence[str]) -> None:
    known = {package.name for package in read_list(LIST.read_text())}
    names = [name for word in wanted for name in (NODE_PACKAGES if word == "node" else [word])]
    unknown = set(names) - known
    if unknown:
        raise ClusterError(f"not in {LIST.name}: {', '.join(sorted(unknown))}")
    ensure_packages(Progress(), *names)


def _status(arguments: argparse.Namespace) -> int:
    root = clusters_root(cache_root())
    names = [arguments.name] if arguments.name else sorted(p.name for p in root.glob("*") if p.is_dir())
    states = [Cluster(name).status() for name in names]
    for status in states:
        print(f"{status.name}: {status.state}" + (f", not running: {', '.join(status.dead)}" if status.dead else ""))
    if not states:
        print("no cluster is up")
    return 0 if not arguments.name or states[0].state == "up" else 1


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "up":
            return _up(arguments)
        if arguments.command == "down":
            Cluster(arguments.name).down()
        elif arguments.command == "status":
            return _status(arguments)
        elif arguments.command == "build":
            unknown = set(arguments.groups) - set(GROUPS)
            if unknown:
                raise ClusterError(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
            Binaries(say=Progress()).ensure(*arguments.groups)
        elif arguments.command == "packages":
            _packages(arguments.packages)
        elif arguments.command == "images":
            unknown = set(arguments.images) - set(IMAGES)
            if unknown:
                raise ClusterError(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
            archives = ImageBuilder(tool=arguments.tool, base=arguments.base).build(*arguments.images)
            if arguments.load:
                Cluster(arguments.load).load_image(*archives.values())
        elif arguments.command == "load":
            Cluster(arguments.name).load_image(*arguments.archives)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
