"""The `edgeward` command, also installed as `kubectl-edgeward`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import sys
from pathlib import Path

from edgeward import __version__

from . import commands
from .errors import CommandError, Exit
from .logs import log_to_stderr


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="edgeward", description="Places AI inference across edge sites and the cloud."
    )
    parser.add_argument("--version", action="version", version=f"edgeward {__version__}")
    chosen = parser.add_subparsers(dest="command", required=True)
    run = chosen.add_parser("operator", help="run the hub and the agent of its own cluster")
    run.add_argument("--config", help="YAML file with the settings; see the chart's values")
    run.add_argument("--kubeconfig", help="only outside of a cluster")
    run.add_argument("--check-config", action="store_true", help="read the settings, print them and stop")
    crds = chosen.add_parser("crds", help="write the CustomResourceDefinitions")
    crds.add_argument("folder", type=Path)
    commands.add(chosen)
    arguments = parser.parse_args(argv)
    if arguments.command == "crds":
        from edgeward.api import crdgen

        return crdgen.main([str(arguments.folder)])
    if arguments.command == "operator":
        return _operator(arguments)
    return _for_a_person(arguments)


def _for_a_person(arguments: argparse.Namespace) -> int:
    # What libraries log is not for whoever asked; what is wrong comes back as an error.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        module, function = arguments.runs
        return int(getattr(importlib.import_module(f"edgeward.cli.{module}"), function)(arguments))
    except CommandError as error:
        print(f"edgeward: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)
        return int(error.code)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return int(Exit.DONE)
    except KeyboardInterrupt:
        return 130


def _operator(arguments: argparse.Namespace) -> int:
    # kopf and all that runs in the operator: whoever only asks something does not wait for it.
    from . import operator
    from .settings import SettingsError, load

    try:
        settings = load(arguments.config)
    except SettingsError as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return 2
    if arguments.check_config:
        print(settings.model_dump_json(by_alias=True, indent=2))
        return 0
    log_to_stderr(settings.log_level)
    try:
        asyncio.run(operator.run(settings, kubeconfig=arguments.kubeconfig))
    except operator.LeaseLost as lost:
        logging.getLogger("edgeward").error("lease lost by %s: this replica ends and stands by anew", lost)
        return 3
    except Exception:  # the last word before the process ends and is started again
        logging.getLogger("edgeward").exception("the operator ended")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
