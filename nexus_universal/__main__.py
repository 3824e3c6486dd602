"""`python -m nexus_universal`, and `torchrun -m nexus_universal`: the command `nexus`."""

from nexus_universal.cli import main

if __name__ == "__main__":
    main()
