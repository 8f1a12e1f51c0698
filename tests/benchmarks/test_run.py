"""The program that runs the suites, what they have in common, and the environment of the peers."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import peers, run
from benchmarks.harness import RESULTS, Plan, environment
from benchmarks.options import add_options, choose, chosen_plan, measured_lately, peers_missing, torch_contenders

pytest.importorskip("tensorflow", reason="suites time TensorFlow")


@pytest.mark.parametrize("suite", run.SUITES)
def test_every_suite_explains_itself(suite: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        run.main([suite, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m benchmarks.run {suite}" in text
    assert all(option in text for option in ("--rounds", "--threads", "--newer", "--peers-python"))
    assert importlib.import_module(f"benchmarks.{suite}").__doc__.splitlines()[0] in " ".join(text.split())


def test_suites_are_listed(capsys: pytest.CaptureFixture) -> None:
    run.main(["--help"])
    text = capsys.readouterr().out
    assert [suite for suite in run.SUITES if f"\n  {suite} " not in text] == []


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(SystemExit, match=r"SUITE must be one of startup, .*, all; not 'trainstep'"):
        run.main(["trainstep"])


def test_all_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def fake(command: list[str], check: bool) -> argparse.Namespace:
        called.append(command[3:])
        return argparse.Namespace(returncode=int(command[3] == "memory"))

    monkeypatch.setattr(run.subprocess, "run", fake)
    with pytest.raises(SystemExit, match="failed: memory"):
        run.main(["all", "--rounds", "1"])
    assert called == [[suite, "--rounds", "1"] for suite in run.SUITES]


def test_every_result_has_a_page_and_a_picture() -> None:
    """Of the runs that the repository holds: a suite that writes no picture leaves a gap here, and so does one never run."""
    names = {file.stem for file in RESULTS.glob("*.json")}
    assert {suite for suite in run.SUITES if suite not in names} == set()
    for name in names:
        title = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))["title"]
        assert (RESULTS / f"{name}.md").read_text("utf-8").startswith(f"# {title}\n")
        assert (RESULTS / f"{name}.svg").read_text("utf-8").rstrip().endswith("</svg>")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser, Plan())
    return parser.parse_args(words)


def test_newer_leaves_recent_results_alone(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text(json.dumps({"environment": environment(Plan())}))
    old = {"environment": {"finished": "2020-01-01T00:00:00+00:00"}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    options = parsed("--newer", "24")
    assert [measured_lately(name, options, tmp_path) for name in ("new", "old", "none")] == [True, False, False]
    assert not measured_lately("new", parsed(), tmp_path)


def test_options_are_checked() -> None:
    assert chosen_plan(parsed("--rounds", "3", "--threads", "1")) == Plan(rounds=3, threads=1)
    with pytest.raises(SystemExit, match="--rounds and --threads must be at least 1, not 0 and 2"):
        chosen_plan(parsed("--rounds", "0"))


def test_an_unknown_network_is_named(capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    assert choose([], ["a", "b"], parser) == ["a", "b"] and choose(["b"], ["a", "b"], parser) == ["b"]
    with pytest.raises(SystemExit):
        choose(["c"], ["a", "b"], parser)
    assert "NETWORK must be one of a, b, not 'c'" in capsys.readouterr().err


def test_missing_peers_are_named() -> None:
    (line,) = peers_missing(sys.executable, "json", "no_such_module")
    assert line.startswith("Missing here: no_such_module")
    assert torch_contenders(sys.executable, "no_such_module", "module:function") == []


def test_peers_are_pinned() -> None:
    found = [words[0] for words in peers.requirements()]
    assert all("==" in requirement for requirement in found)
    assert {"torch", "timm", "torchvision", "onnxruntime", "openvino"} <= {name.split("==")[0] for name in found}


def test_a_peer_that_cannot_be_installed_is_reported() -> None:
    complaint = peers.install(["no-such-peer==1", "--no-index"], Path(sys.executable))
    assert complaint is not None and "no-such-peer==1" in complaint
