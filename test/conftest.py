"""Settings of all tests. Hypothesis has no deadline per example, for a busy machine is no error."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dist-zero", deadline=None, max_examples=60)
settings.load_profile("dist-zero")
