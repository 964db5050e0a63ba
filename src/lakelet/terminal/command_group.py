"""How every command ends: with an exit code, and with each error as one block on stderr."""

from __future__ import annotations

import re
from typing import Any

import click

from lakelet.errors import LakeletError

INTERNAL_ERROR = 70
INTERRUPTED = 130


_COMMENT = re.compile(r"--(?:\s|[^=\n]*\n)")


class SqlCommand(click.Command):
    """A command whose argument is SQL text, which may begin with a comment and is no option then."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [f"\n{arg}" if _COMMENT.match(arg) else arg for arg in args])


class LakeletGroup(click.Group):
    """A group of commands that never end with a bare traceback. Its parameter `debug` asks for one after a crash."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LakeletError as error:
            click.echo(error.render(), err=True)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            ctx.exit(0)  # the reader of our output, such as `head`, has seen enough
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:  # the one place that answers for a bug of ours
            from lakelet.terminal.crash_report import report

            click.echo(report(error, debug=bool(ctx.params.get("debug"))), err=True)
            ctx.exit(INTERNAL_ERROR)
