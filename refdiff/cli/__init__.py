r"""The command line: `refdiff validate` runs the identities of diffusion theory, `refdiff samplers` and
`refdiff compare` show samplers, `refdiff audit` puts other people's to the test, `refdiff bench` times, `refdiff info`
says what is installed.

One file for each command, of which none imports more than click before it runs; options.py and printing.py are what
they share, names.py the processes, grids and laws that are known by name. Results go to stdout, progress to stderr.
"""

import click

from refdiff import __version__, backends
from refdiff.cli import audit, bench, compare, info, samplers, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="refdiff")
def main() -> None:
    """The reference implementation of the mathematics of diffusion generative models."""
    try:
        backends.current()
    except ValueError as error:
        raise click.UsageError(str(error)) from None


for command in (validate.validate, info.info, samplers.samplers, compare.compare, bench.bench, audit.audit):
    main.add_command(command)
