"""A chat in the terminal, with a server that listens."""

from __future__ import annotations

import sys

import requests

from examples.client import Client, ServerError


def chat(url: str, key: str) -> None:
    """Ask for prompts and show the answers, until the end of input (Ctrl+D) or Ctrl+C at the prompt."""
    client = Client(url, key)
    while True:
        try:
            prompt = input("you> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if prompt:
            _answer(client, prompt)


def _answer(client: Client, prompt: str) -> None:
    try:
        for chunk in client.stream(prompt):
            print(chunk, end="", flush=True)
        print()
    except (ServerError, requests.RequestException) as error:
        print(f"\n[{error}]", file=sys.stderr)
    except KeyboardInterrupt:
        # Hanging up stops the engine; the exchange is not kept.
        print(" [stopped]")
