"""A whole compiled step as one Python file that a person can read, run and change."""

from lowgrad.eject.write import eject

__all__ = ["eject"]
