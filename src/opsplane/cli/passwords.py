"""Passwords at the shell: made at random and shown once, or read from standard input and never shown."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from opsplane.auth import passwords
from opsplane.auth.passwords import Passwords
from opsplane.cli import output

FromStdin = Annotated[bool, typer.Option("--stdin", help="Read the new password from standard input.")]


@dataclass(frozen=True)
class NewPassword:
    """A password to set; `made` is the plain text of a random one, which nobody has seen yet."""

    hashed: str
    made: str | None

    async def reveal(self) -> None:
        """The same, once it is committed."""
        self.show()

    def show(self) -> None:
        """Print it, if it was made here: alone on standard output, so that it can be piped."""
        if self.made is not None:
            output.note("The password, shown once:")
            typer.echo(self.made)


def read() -> str:
    """A line of standard input; before any transaction, which would time out while somebody types."""
    return sys.stdin.readline().rstrip("\n")


async def new(*about: str, chosen: str | None = None) -> NewPassword:
    """A new password for somebody known by `about`: the chosen one, or a random one.

    Raises:
        InvalidInput: the chosen one is too easy to guess.
    """
    if chosen is not None:
        return NewPassword(await Passwords().hash(passwords.require_strong(chosen, *about)), None)
    made = passwords.generated()
    return NewPassword(await Passwords().hash(made), made)
