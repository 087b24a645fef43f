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


def _answer(client: Client, prompt: str, session: int | None) -> None:
    try:
        for chunk in client.stream(prompt, session_id=session):
            print(chunk, end="", flush=True)
        print()
    except (ServerError, requests.RequestException) as error:
        print(f"\n[{error}]", file=sys.stderr)
    except KeyboardInterrupt:
        # Disconnecting stops the engine; the exchange is not stored.
        print(" [stopped]")


if __name__ == "__main__":
    sys.exit(main())
