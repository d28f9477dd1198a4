"""The leaderboard over http: Python's own server, bound to this machine alone."""

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.page import serve

COMMAND = "from madeleine_bench.cli.main import main; main()"


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    (folder / "tasks").mkdir(parents=True)
    (folder / "index.html").write_text("the index")
    (folder / "tasks" / "a.html").write_text("a task")
    (tmp_path / "outside.txt").write_text("outside")
    return folder


def test_the_command_serves_the_pages_and_nothing_beside_them_until_interrupted(site):
    command = [sys.executable, "-c", COMMAND, "leaderboard", "serve", str(site), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        for path, content in (("", "the index"), ("tasks/a.html?x=1", "a task")):
            with urllib.request.urlopen(address.group() + path, timeout=10) as answer:
                assert answer.read().decode() == content
                assert answer.headers["Content-Type"] == "text/html"
        for path in ("../outside.txt", "%2e%2e/outside.txt", "nothing.html"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address.group() + path, timeout=10)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_port_that_is_taken_is_said(site):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=f"port {taken.getsockname()[1]} cannot be used"):
            serve(site, taken.getsockname()[1], print)


def test_a_folder_without_pages_and_a_number_that_is_no_port_are_said(tmp_path, site):
    with pytest.raises(InputError, match="build the pages"):
        serve(tmp_path, 0, print)
    with pytest.raises(InputError, match="no port"):
        serve(site, 70000, print)


def test_it_is_bound_to_this_machine_and_ends_quietly_when_interrupted(site):
    addresses: list[str] = []

    def ready(address: str) -> None:
        addresses.append(address)
        raise KeyboardInterrupt

    serve(site, 0, ready)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", addresses[0])
