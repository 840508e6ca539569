"""The commands together, and the exit codes with which they end: ``EPILOG`` says what these mean."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import click

import devpipe
from devpipe.cli.catalogue import catalogue
from devpipe.cli.config import config
from devpipe.cli.demo import demo
from devpipe.cli.diagrams import diagrams
from devpipe.cli.doctor import doctor
from devpipe.cli.failures import exit_code_of, show
from devpipe.cli.send import send
from devpipe.cli.serve import serve
from devpipe.cli.watch import watch

__all__ = ["main"]

INTERRUPTED = 130

EPILOG = """Exit codes: 0 done; 1 it failed; 2 wrong usage or configuration; 3 no transport works; 4 the time ran out;
5 the server refused the message, or its handler failed; 6 some transports work and some do not (doctor);
130 interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96}, epilog=EPILOG)
@click.version_option(devpipe.__version__, prog_name="devpipe")
@click.option("--debug", is_flag=True, help="Log what happens inside to the standard error.")
def cli(debug: bool) -> None:
    """One message pipe over WebSocket, HTTP and a shared folder, that keeps its word when transports break.

    Begin with "devpipe demo".
    """
    if debug:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("devpipe").setLevel(logging.DEBUG)
    else:
        # what a pipe warns of, a command says itself, once
        logging.getLogger("devpipe.pipe").setLevel(logging.ERROR)


for command in (serve, send, watch, doctor, config, catalogue, diagrams, demo):
    cli.add_command(command)


def main() -> NoReturn:
    """Run a command and leave with its exit code."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = exit_code_of(error)
    except devpipe.DevPipeError as error:
        show(error)
        code = exit_code_of(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    else:
        code = 0
    sys.exit(code)
