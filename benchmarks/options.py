"""What the benchmark programs have in common on their command lines."""

import argparse
import dataclasses
import sys

from benchmarks.harness import Contender, Plan, can_import

CONTIGUOUS, CHANNELS_LAST = "PyTorch, contiguous", "PyTorch, channels_last"


def add_options(parser: argparse.ArgumentParser, plan: Plan) -> None:
    """The options of every program; `plan` gives the defaults."""
    parser.add_argument("--torch-python", metavar="INTERPRETER", default=None,
                        help="a Python interpreter that has PyTorch (default: this one, if it has)")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=plan.rounds, help="turns of every contender (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=plan.threads, help="threads and cores (default %(default)s)")
    parser.set_defaults(plan=plan)


def chosen_plan(options: argparse.Namespace) -> Plan:
    """The program's plan with the caller's rounds and threads."""
    if options.rounds < 1 or options.threads < 1:
        sys.exit(f"--rounds and --threads must be at least 1, not {options.rounds} and {options.threads}")
    return dataclasses.replace(options.plan, rounds=options.rounds, threads=options.threads)


def torch_contenders(python: str | None, module: str, target: str, **arguments: object) -> list[Contender]:
    """PyTorch in both memory formats, or, with a notice, none if this interpreter lacks `module` and no other was given."""
    interpreter = python or sys.executable
    if not can_import(interpreter, module):
        if python is not None:
            sys.exit(f"--torch-python: {python!r} cannot import {module}")
        print(f"{module} is not installed here: no PyTorch rows (--torch-python names another interpreter)")
        return []
    # OpenMP's threads spin at barriers by default, which costs PyTorch dearly as soon as anything else runs on the machine.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"}
    return [
        Contender(CONTIGUOUS, target, {**arguments, "channels_last": False}, interpreter, environment),
        Contender(CHANNELS_LAST, target, {**arguments, "channels_last": True}, interpreter, environment),
    ]
