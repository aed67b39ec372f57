"""How a lesson is run."""

from tests.lessons import changed, run  # noqa: F401 - fixtures
