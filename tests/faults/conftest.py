"""A harness for the session: the warm process is started once."""

import pytest

from tests.faults import server
from tests.faults.harness import Harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory):
    if reason := server.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("faults")
    with server.Commands(folder / "scratch") as commands:
        yield Harness(folder, commands)
