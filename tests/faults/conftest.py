import pytest

from tests.faults.untouched import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the run of every kind to which nothing happens, brought on as far as tests ask for it."""
    return Runs(tmp_path_factory.mktemp("every_kind"))
