"""`python -m tests.demo up|clean|models`: see docs/demo.md."""

from __future__ import annotations

import argparse
import random
import sys

from tests.cluster import Cluster, ClusterError, Progress
from tests.cluster.paths import cache_root

from . import current, run
from .kube import StoryError
from .models import ModelError, prepare


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="Edgeward doing what it is for.")
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--cluster", choices=["embedded", "current"], default="embedded", help="current: the one that kubectl talks to"
    )
    shared.add_argument("--name", default="edgeward", help="name of the embedded cluster")
    shared.add_argument("--yes", action="store_true", help="do not ask before anything is added to a current cluster")
    up = commands.add_parser("up", parents=[shared], help="tell the story; the cluster stays up")
    up.add_argument(
        "--image", help="current: the operator's image; the runtime's is the same with -runtime for -operator"
    )
    up.add_argument("--prometheus", default="", help="current: URL of Prometheus as pods reach it")
    up.add_argument("--seed", type=int, help="which edge node gets busy; default: another one each time")
    commands.add_parser("clean", parents=[shared], help="remove what the demo added")
    commands.add_parser("models", help="fetch and make the models, ahead of time")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    say = Progress()
    try:
        if arguments.command == "models":
            prepare(cache_root(), say=say)
            return 0
        if arguments.cluster == "current":
            if arguments.command == "clean":
                return current.clean(say, yes=arguments.yes)
            return current.up(say, image=arguments.image, prometheus=arguments.prometheus, yes=arguments.yes)
        cluster = Cluster(arguments.name, say=say)
        if arguments.command == "clean":
            run.clean(cluster)
            return 0
        seed = random.SystemRandom().randrange(10_000) if arguments.seed is None else arguments.seed
        result = run.embedded(cluster, say, seed=seed)
        run.farewell(cluster, result.seconds)
    except (ClusterError, StoryError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
