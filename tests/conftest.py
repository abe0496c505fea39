"""Property tests look at the same examples on every run: a failure is one for everybody.

To search for new ones: HYPOTHESIS_PROFILE=search make unit
"""

from __future__ import annotations

import os

import hypothesis

hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repository"))
