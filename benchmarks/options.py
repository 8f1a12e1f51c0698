"""What the benchmark programs have in common on their command lines."""

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
from collections.abc import Sequence

from benchmarks.harness import RESULTS, Contender, Plan, can_import
from benchmarks.peers import PYTHON

CONTIGUOUS, CHANNELS_LAST = "PyTorch, contiguous", "PyTorch, channels_last"
PEERS_OPTION = "--peers-python"
# OpenMP's threads spin at barriers by default, which costs PyTorch dearly as soon as anything else runs on the machine.
TORCH_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def add_options(parser: argparse.ArgumentParser, plan: Plan) -> None:
    """The options of every program; `plan` gives the defaults."""
    default = str(PYTHON) if PYTHON.exists() else sys.executable
    peers = "a Python that has the peers (default: %(default)s; `python -m benchmarks.peers` makes one)"
    parser.add_argument(PEERS_OPTION, metavar="INTERPRETER", default=default, help=peers)
    parser.add_argument(
        "--rounds", type=int, default=plan.rounds, help="turns of every contender (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=plan.threads, help="threads and cores (default %(default)s)")
    parser.add_argument("--newer", type=float, default=0.0, metavar="HOURS",
                        help="leave out what was measured within so many hours: an interrupted run goes on")  # fmt: skip
    parser.set_defaults(plan=plan)


def chosen_plan(options: argparse.Namespace) -> Plan:
    """The program's plan with the caller's rounds and threads."""
    if options.rounds < 1 or options.threads < 1:
        sys.exit(f"--rounds and --threads must be at least 1, not {options.rounds} and {options.threads}")
    return dataclasses.replace(options.plan, rounds=options.rounds, threads=options.threads)


def choose(given: Sequence[str], known: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The networks given, or all that are known; ends the program at an unknown one."""
    unknown = [network for network in given if network not in known]
    if unknown:
        parser.error(f"NETWORK must be one of {', '.join(known)}, not {unknown[0]!r}")
    return list(given or known)


def measured_lately(name: str, options: argparse.Namespace, folder: pathlib.Path = RESULTS) -> bool:
    """Whether the results `name` were written within the last `--newer` hours."""
    try:
        written = json.loads((folder / f"{name}.json").read_text("utf-8"))["environment"]["finished"]
    except (OSError, KeyError, ValueError):
        return False
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(written)
    return age < datetime.timedelta(hours=options.newer)


def peers_missing(python: str, *modules: str) -> list[str]:
    """A line for every module that the interpreter cannot import, for the page of results."""
    return [
        f"Missing here: {module} ({PEERS_OPTION} names an interpreter that has it)."
        for module in modules
        if not can_import(python, module)
    ]


def torch_contenders(python: str, module: str, target: str, **arguments: object) -> list[Contender]:
    """PyTorch in both memory formats; none if the interpreter lacks `module` (`peers_missing` names it)."""
    if not can_import(python, module):
        return []
    return [
        Contender(name, target, {**arguments, "channels_last": name == CHANNELS_LAST}, python, TORCH_ENVIRONMENT)
        for name in (CONTIGUOUS, CHANNELS_LAST)
    ]
