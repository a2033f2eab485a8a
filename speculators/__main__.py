"""`python -m speculators`."""

from speculators.cli import main

main()
