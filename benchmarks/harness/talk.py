"""A conversation as both servers see it: the template, the last exchanges, the person's next words."""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW = 5
# Fifteen made-up words stand for a system prompt.
HEAD = "gado lyni suro befa kimo tavu zeli ropa wudy hixo celu jamy nivo poxe dara"
TEMPLATE = HEAD + "\n\n{chat_history}\nHuman: {input}\nAI:"
# The same text as a chat template, for messages.
CHAT_TEMPLATE = (
    "{{ '" + HEAD + "\\n\\n' }}{% if messages | length == 1 %}{{ '\\n' }}{% endif %}{% for message in messages %}"
    "{{ ('Human: ' if message['role'] == 'user' else 'AI: ') + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}AI:{% endif %}"
)


@dataclass
class Talk:
    """One user's conversation. Hearth keeps its text, by `session`; llama-server is sent the whole text each time."""

    session: int
    exchanges: list[tuple[str, str]] = field(default_factory=list)

    def text(self, words: str) -> str:
        """Return the whole prompt for a person's next words, as Hearth fills its template."""
        history = "\n".join(f"Human: {human}\nAI: {ai}" for human, ai in self.exchanges[-WINDOW:])
        return TEMPLATE.replace("{chat_history}", history).replace("{input}", words)

    def add(self, words: str, answer: str) -> None:
        """Append an exchange; Hearth stores answers without white space at their ends."""
        self.exchanges.append((words, answer.strip()))
