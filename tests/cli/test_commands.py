"""Every command says what a person needs, and starts fast."""

import json
import subprocess
import sys

import pytest

from madeleine_bench import __version__
from madeleine_bench.specs.catalogue import load_catalogue


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom madeleine_bench.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'h5py', 'sksurv', 'scipy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for group in ("run", "tasks", "data", "encoders", "leaderboard"):
        assert group in done.stdout


def test_an_interrupt_before_the_work_begins_is_said(mbench, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("madeleine_bench.specs.catalogue.load_catalogue", interrupted)
    said = mbench("tasks", "list")
    assert said.code == 130
    assert said.err == "interrupted; the same command continues from there\n"


def test_version(mbench):
    assert mbench("--version").out == f"mbench {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [("run",), ("runn",), ("tasks", "shw"), ("run", "--tsk", "x")]
)
def test_usage_errors_exit_with_2(mbench, arguments):
    said = mbench(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err


def test_tasks_list_names_every_task(mbench):
    said = mbench("tasks", "list")
    assert said.code == 0
    for task_id in load_catalogue().tasks:
        assert task_id in said.out


def test_tasks_show_says_attested_and_reconstructed(mbench):
    said = mbench("tasks", "show", "bcnb-er")
    assert "attested" in said.out
    assert "reconstructed" in said.out
    assert "831" in said.out


def test_tasks_validate_counts_the_slides(mbench):
    said = mbench("tasks", "validate")
    assert "28 tasks" in said.out
    assert "7,299 slides in the 6 counted cohorts" in said.out


def test_the_committed_lock_holds(mbench):
    said = mbench("tasks", "lock", "--check")
    assert said.code == 0, said.err
    assert "27 tasks unchanged" in said.out


def test_encoders_list_show_check(mbench):
    assert "mean-pool" in mbench("encoders", "list").out
    assert "training cohorts" in mbench("encoders", "show", "oracle").out
    said = mbench("encoders", "check", "max-pool")
    assert said.code == 0
    assert said.out.count("passed") == 5


def test_data_status_names_what_is_missing(mbench, bcnb):
    bcnb.bag(7).unlink()
    said = mbench("data", "status", "bcnb", "--config", bcnb.config)
    assert said.code == 2
    assert "bcnb-aln" in said.err  # its label column holds one class
    assert "39/40" in said.out
    assert "no feature file or an empty one: 1 (7)" in " ".join(said.out.split())


def test_data_status_of_phantoms(mbench):
    said = mbench("data", "status", "aidpath")
    assert said.code == 0
    assert "phantom" in said.out


def test_data_verify_of_sound_files(mbench, bcnb, tmp_path):
    said = mbench("data", "verify", "--config", bcnb.config, "--results", tmp_path / "r")
    assert said.code == 0
    assert "40 files opened, 0 findings" in said.out


def test_a_notebook_asks_for_colours_and_gets_no_live_bar(mbench, bcnb, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = mbench("data", "verify", "--config", bcnb.config, "--results", tmp_path / "r")
    assert said.err == "verify: 40 jobs\n"


def test_leaderboard_in_every_format(mbench, bcnb, tmp_path):
    results = tmp_path / "results"
    run = ["run", "--encoder", "mean-pool", "--task", "bcnb-er", "--protocol", "linear-probe"]
    assert mbench(*run, "--config", bcnb.config, "--results", results, "--jobs", "1").code == 0
    show = ["leaderboard", "show", "--results", results]
    assert "incomplete: 1 of 21 tasks" in mbench(*show).out
    assert mbench(*show, "--format", "csv").out.startswith("data,board,encoder,")
    assert json.loads(mbench(*show, "--format", "json").out)["boards"][0]["phantom"] is False
    out = tmp_path / "board.csv"
    assert mbench(*show, "--format", "csv", "--out", out).code == 0
    assert out.read_text().startswith("data,board,encoder,")
    assert mbench(*show, "--board", "phantom").code == 2
    assert mbench(*show, "--protocol", "few-shot").code == 2
    assert "1 of 20 tasks" in mbench(*show, "--protocol", "linear-prob*").out
    nothing = mbench(*show, "--protocol", "lineal-*")
    assert (nothing.code, "no protocol matches 'lineal-*'; did you" in nothing.err) == (2, True)


def test_leaderboard_build_writes_a_site_and_the_numbers_beside_it(mbench, bcnb, tmp_path):
    results, site = tmp_path / "results", tmp_path / "site"
    run = ["run", "--encoder", "mean-pool", "--encoder", "max-pool", "--task", "bcnb-er"]
    run += ["--protocol", "linear-probe", "--protocol", "patho-bench-linprobe"]
    assert mbench(*run, "--config", bcnb.config, "--results", results, "--jobs", "1").code == 0
    build = ["leaderboard", "build", "--results", results, "--out", site]
    build += ["--protocol", "patho-bench-linprobe"]
    assert mbench(*build).code == 0
    document = json.loads((site / "leaderboard.json").read_text())
    assert [b["protocol"] for b in document["boards"]] == ["primary", "patho-bench-linprobe/v1"]
    value = document["boards"][0]["encoders"][0]["cells"]["bcnb-er"]["value"]
    assert f"{value:.3f}" in (site / "index.html").read_text()
    assert repr(value) in (site / "leaderboard.csv").read_text()
    first = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert mbench(*build).code == 0
    assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file()} == first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", "--results", "nowhere"), "no folder nowhere"),
        (("show", "--results", "nowhere"), "no folder nowhere"),
        (("build", "--results", "."), "no records for this in ."),
        (("build", "--results", ".", "--protocol", "few-shoot"), "few-shot"),
        (("build", "--results", ".", "--out", "mine"), "no leaderboard"),
        (("build", "--results", ".", "--out", "mine/a.txt"), "is a file"),
    ],
)
def test_leaderboard_says_what_is_wrong(mbench, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    said = mbench("leaderboard", *arguments)
    assert said.code == 2
    assert says in said.err


def test_changelog_is_of_this_version():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    newest = next(line for line in text.splitlines() if line.startswith("## "))
    assert f"[{__version__}]" in newest
