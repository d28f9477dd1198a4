"""The leaderboard over http: this machine only, this folder only."""

import http.client
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.page import open_server, serve
from madeleine_bench.leaderboard.page.serve import address, file_behind


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    (folder / "tasks").mkdir(parents=True)
    (folder / "index.html").write_text("the index")
    (folder / "tasks" / "a.html").write_text("a task")
    (folder / ".secret").write_text("hidden")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    return folder


@pytest.fixture
def server(site):
    with open_server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, path: str, method: str = "GET", host: str | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_serves_the_index_and_pages_with_headers_that_keep_them_apart(server):
    answer, body = ask(server, "/")
    assert (answer.status, body) == (200, "the index")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "Python" not in answer.headers["Server"]
    assert ask(server, "/tasks/a.html?x=1")[1] == "a task"
    answer, body = ask(server, "/index.html", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], body) == (200, "9", "")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/../outside.txt",
            "/%2e%2e/outside.txt",
            "/tasks/../../outside.txt",
            "/..%2foutside.txt",
        ),
        *("/link.txt", "/.secret", "/tasks/", "/tasks", "//etc/passwd", "/%00", "/a%5c..%5cb"),
        *("/nothing.html", "/" + "x" * 300),
    ],
)
def test_serves_nothing_outside_the_folder_no_listing_and_no_hidden_file(server, path):
    answer, body = ask(server, path)
    assert answer.status == 404
    assert "outside" not in body
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_other_methods_and_other_hosts_are_refused(server):
    assert ask(server, "/", "POST")[0].status == 501
    assert ask(server, "/", host="evil.example")[0].status == 421
    assert ask(server, "/", host=f"localhost:{server.server_port}")[0].status == 200


def test_binds_to_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert address(server) == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_that_is_taken_is_said(site):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=f"port {taken.getsockname()[1]} cannot be used"):
            open_server(site, taken.getsockname()[1])


def test_a_folder_without_pages_and_a_number_that_is_no_port_are_said(tmp_path, site):
    with pytest.raises(InputError, match="build the pages"):
        open_server(tmp_path, 0)
    with pytest.raises(InputError, match="no port"):
        open_server(site, 70000)


def test_serving_ends_quietly_when_interrupted(site):
    said: list[str] = []

    def ready(url: str) -> None:
        said.append(url)
        raise KeyboardInterrupt

    serve(site, 0, ready)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", said[0])


def test_the_file_behind_a_request_is_found_under_the_folder(site):
    assert file_behind(site, "/") == (site / "index.html").resolve()
    assert file_behind(site, "/tasks/a.html#x") == (site / "tasks" / "a.html").resolve()
    assert file_behind(Path(site), "/tasks") is None
