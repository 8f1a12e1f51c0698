"""Makes the environment of the peers, .venv-peers: PyTorch, timm, ONNX Runtime, OpenVINO, as pinned in peers.txt.

python -m benchmarks.peers

It is apart from the package's own environment, so that neither side decides the other's versions. What cannot be installed on this
machine is named, here and on the pages of results.
"""

import pathlib
import shlex
import subprocess
import sys
import venv
from collections.abc import Sequence

from benchmarks.harness import ROOT

FOLDER = ROOT / ".venv-peers"
PYTHON = FOLDER / "bin" / "python"
REQUIREMENTS = ROOT / "benchmarks" / "peers.txt"


def requirements(path: pathlib.Path = REQUIREMENTS) -> list[list[str]]:
    """The words of every line that is no comment: a requirement and options of pip."""
    lines = path.read_text("utf-8").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def install(words: Sequence[str], python: pathlib.Path = PYTHON) -> str | None:
    """Installs one requirement; returns pip's last words if that fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (complaints or done.stderr.splitlines() or ["no reason given"])[-1]


def main() -> None:
    from rich.progress import track

    if not PYTHON.exists():
        print(f"making {FOLDER.name}; PyTorch and OpenVINO take some minutes and 2 GB")
        venv.create(FOLDER, with_pip=True)
    missing = {words[0]: install(words) for words in track(requirements(), "installing peers")}
    for requirement, complaint in missing.items():
        if complaint is not None:
            print(f"missing: {requirement} ({complaint})", file=sys.stderr)
    (FOLDER / "done").touch()


if __name__ == "__main__":
    main()
