"""`python -m cada_edge`: the command line, also for launchers such as torchrun."""

from __future__ import annotations

from cada_edge.cli import main

if __name__ == "__main__":
    main(prog_name="cada-edge")
