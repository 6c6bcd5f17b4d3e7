"""Passwords: argon2id hashes made in threads, and which passwords are good enough."""

import asyncio
import secrets
import unicodedata
from dataclasses import dataclass

import zxcvbn
from pwdlib import PasswordHash

from opsplane.errors import InvalidInput, ServiceUnavailable

MIN_LENGTH, MAX_LENGTH = 12, 128
MIN_SCORE = 3  # of 4: "safely unguessable" from 10^8 guesses on
AT_ONCE = 2  # a hash takes 64 MiB
MAX_WAITING = 50  # some seconds' worth
_RATED = 40  # zxcvbn takes seconds over long odd ones; nobody guesses what comes after a good beginning
_OURS = ("opsplane", "operator", "platform", "backfill")


class TooBusy(ServiceUnavailable):
    """So many passwords wait to be judged that one more would only make everybody wait longer."""

    code = "too_busy"

    def __init__(self) -> None:
        super().__init__("Too many people sign in at this moment; try again in a few seconds.", service="api")


@dataclass(frozen=True)
class Verdict:
    """Whether a password was right, and its new hash if the kept one is of weaker parameters."""

    right: bool
    rehashed: str | None = None


class Passwords:
    """Hash and verify, two at a time in a process, so that a flood of logins cannot take all of its memory."""

    def __init__(self, hasher: PasswordHash | None = None) -> None:
        self._hasher = hasher or PasswordHash.recommended()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._nobodys = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """The hash to keep."""
        async with self._slots:
            return await asyncio.to_thread(self._hasher.hash, _normal(password))

    async def verify(self, password: str, kept: str | None) -> Verdict:
        """Compare; an account without a password, or none at all, takes as long and is never right.

        Raises:
            TooBusy: 503.
        """
        if self._waiting >= MAX_WAITING:
            raise TooBusy
        self._waiting += 1
        try:
            return await self._verified(password, kept)
        finally:
            self._waiting -= 1

    async def _verified(self, password: str, kept: str | None) -> Verdict:
        async with self._slots:
            right, rehashed = await asyncio.to_thread(
                self._hasher.verify_and_update, _normal(password), kept or self._nobodys
            )
        return Verdict(right, rehashed) if kept is not None else Verdict(right=False)


def generated() -> str:
    """A random password of 120 bits, to be shown once."""
    return secrets.token_urlsafe(15)


def require_strong(password: str, *about: str) -> str:
    """The password, if it is long and hard to guess; `about` are words its owner is known by.

    Raises:
        InvalidInput: it says why, never what was given.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.")
    rated = zxcvbn.zxcvbn(password[:_RATED], user_inputs=[*_OURS, *about, *_parts(about)])
    if rated["score"] < MIN_SCORE:
        why = rated["feedback"]["warning"] or "Add another word or two."
        raise InvalidInput(f"This password is too easy to guess: {why}")
    return password


def _parts(about: tuple[str, ...]) -> list[str]:
    return [part for words in about for part in words.replace("@", ".").replace(" ", ".").split(".") if part]


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)  # the same password from any keyboard
