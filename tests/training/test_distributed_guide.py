"""The guide to several devices and machines can be followed: commands are understood, and run where a processor is enough."""

import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys

import pytest

from training import train
from training.recipe import load_recipe
from training.run_folder import RunFolder, read_log

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "distributed.md").read_text("utf-8")
RUNNABLE = re.findall(r"```console cpu\n(.*?)```", GUIDE, re.DOTALL)
# An srun that starts so many tasks on this machine, and a python that is this one.
SHELL = """
python() { "$INTERPRETER" "$@"; }
srun() {
    for task in $(seq "$2"); do
        (export SLURM_STEP_NUM_TASKS=$2 SLURM_PROCID=$((task - 1)) SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=$2
         shift 2; "$@") &
    done
}
"""


def commands() -> list[list[str]]:
    """The words of all commands, without variables set for them, without srun and its options."""
    found = []
    for block in re.findall(r"```console.*?\n(.*?)```", GUIDE, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line.removesuffix("&"))
            found.append(words[words.index("python") :])
    return found


def test_commands_are_understood() -> None:
    """Recipes and overrides as well, but not addresses, which are other people's."""
    assert len(commands()) > 10
    for python, *words in commands():
        assert python == "python"
        if words[0] == "-m":
            assert words[1] == "training.train"
            options = train.parse_arguments(words[2:])
            load_recipe(options.recipe, options.overrides)
        else:
            assert (ROOT / words[0]).is_file()


def test_exit_codes_are_those_of_the_program() -> None:
    table = re.search(r"\| exit code \|\n(.*?)\n\n", GUIDE, re.DOTALL)
    assert table is not None
    for code in (train.INTERRUPTED, train.AGAIN):
        assert f"| {code} |" in table[1]


def with_free_ports(text: str) -> str:
    """`text` with other ports of this machine."""
    named = sorted(set(re.findall(r"localhost:(\d+)", text)))
    sockets = [socket.create_server(("localhost", 0)) for _ in named]
    for port, opened in zip(named, sockets, strict=True):
        text = text.replace(f"localhost:{port}", f"localhost:{opened.getsockname()[1]}")
        opened.close()
    return text


def environment(**more: str) -> dict[str, str]:
    """Of a fresh terminal: without what this test run was told about its own processes."""
    kept = {key: value for key, value in os.environ.items() if key != "TF_CONFIG" and not key.startswith("SLURM")}
    return {**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "INTERPRETER": sys.executable, **more}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RUNNABLE)))
def test_block_runs(number: int, tmp_path: pathlib.Path) -> None:
    """In a folder that sees the checkout. What is trained has three epochs in its log, or says its loss."""
    (tmp_path / "training").symlink_to(ROOT / "training")
    block = RUNNABLE[number]
    if "jax_data_parallel" in block:
        pytest.importorskip("jax", reason="JAX is not installed")
    script = SHELL + "set -e\n" + with_free_ports(block) + "wait\n"
    process = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(JAX_PLATFORMS="cpu"),
                             capture_output=True, text=True, check=False)  # fmt: skip
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-3000:]
    folders = set(re.findall(r"--run-dir (\S+)", block))
    for folder in folders:
        assert [row["epoch"] for row in read_log(RunFolder(tmp_path / folder).log)] == [1, 2, 3]
    foreground = [line for line in block.splitlines() if not line.endswith("&")]
    assert process.stdout.count("Test accuracy") + process.stdout.count("last epoch: loss") == len(foreground)


@pytest.mark.slow
def test_fit_runs(tmp_path: pathlib.Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "2/2" in process.stdout and "loss" in process.stdout
