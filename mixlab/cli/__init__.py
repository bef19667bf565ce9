"""The command `mixlab`."""

from mixlab.cli.commands import main

__all__ = [
    "main",
]
