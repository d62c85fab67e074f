"""Check losses that are not the package's: which row of the unified view, and which laws."""

from upge.testing.check import assert_implements, assert_laws, check

__all__ = ["assert_implements", "assert_laws", "check"]
