"""`python -m mixlab` is the command `mixlab`."""

from mixlab.cli import main

main()
