"""Property tests look at the same examples on every run: a failure is one for everybody.

To search for new ones: HYPOTHESIS_PROFILE=search make unit

A test marked ``seed("T1.1")`` has that number of docs/seed-conformance.md in its name, in results
and for ``-k``.
"""

from __future__ import annotations

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repository"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put the numbers of a test that has some into its name."""
    mark = metafunc.definition.get_closest_marker("seed")
    if mark is not None:
        number = "+".join(mark.args)
        metafunc.fixturenames.append("seed_number")
        metafunc.parametrize("seed_number", [number], ids=[number])
