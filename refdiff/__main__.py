"""python -m refdiff: the command line."""

from refdiff.cli import main

if __name__ == "__main__":
    main(prog_name="python -m refdiff")
