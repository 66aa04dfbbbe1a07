"""`python -m pipeflow` is the `pipeflow` command."""

from pipeflow.cli.main import main

if __name__ == "__main__":
    main()
