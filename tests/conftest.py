"""What holds for every test."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory):
    """Runs of the tests, in whatever process, share no cache with those of the person who tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECULATORS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
