"""A chat on the command line: python3 -m examples.chat [--url URL] [--session N]."""

from __future__ import annotations

import argparse
import os
import sys
from getpass import getpass

import requests

from examples.client import Client, ServerError


def main() -> int:
    """Run the chat until the end of input (Ctrl+D)."""
    parser = argparse.ArgumentParser(description="Chat with a Hearth server.")
    parser.add_argument("--url", default="http://127.0.0.1:5000")
    parser.add_argument("--session", type=int, help="a number: the conversation is kept under it")
    options = parser.parse_args()
    # Not an argument: other users of the machine could read it there.
    chat(Client(options.url, os.environ.get("HEARTH_KEY") or getpass("your key> ")), options.session)
    return 0


def chat(client: Client, session: int | None = None) -> None:
    """Read prompts and print the answers, until the end of input (Ctrl+D) or Ctrl+C at the prompt.

    `session` is the number of the stored conversation; None stores nothing.
    """
    while True:
        try:
            prompt = input("you> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if prompt:
            _answer(client, prompt, session)


class _Screen:
    """Prints an answer as it comes, and before it the model's thoughts: dimmed, or between lines in a file."""

    def __init__(self) -> None:
        self._begins, self._ends = ("\033[2m", "\033[0m\n\n") if sys.stdout.isatty() else ("[thoughts]\n", "\n[answer]\n")
        self._is_thinking = False

    def think(self, piece: str) -> None:
        """Print a piece of the thoughts."""
        print("" if self._is_thinking else self._begins, piece, sep="", end="", flush=True)
        self._is_thinking = True

    def say(self, piece: str) -> None:
        """Print a piece of the answer; "": nothing more comes."""
        print(self._ends if self._is_thinking else "", piece, sep="", end="", flush=True)
        self._is_thinking = False


def _answer(client: Client, prompt: str, session: int | None) -> None:
    screen = _Screen()
    try:
        for chunk in client.stream(prompt, session_id=session, on_reasoning=screen.think):
            screen.say(chunk)
        screen.say("")
        print()
    except (ServerError, requests.RequestException) as error:
        screen.say("")
        print(f"\n[{error}]", file=sys.stderr)
    except KeyboardInterrupt:
        # Disconnecting stops the engine; the exchange is not stored.
        screen.say("")
        print(" [stopped]")


if __name__ == "__main__":
    sys.exit(main())
