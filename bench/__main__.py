"""`python -m bench`: the command line where the script `bench` is not on the PATH."""

from bench.cli import main

if __name__ == "__main__":
    main(prog_name="python -m bench")
