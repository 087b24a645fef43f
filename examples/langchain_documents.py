"""A LangChain retriever over the files of a Hearth server, and a chain that answers from them.

It needs langchain-openai and requests. The file can be copied into any project. With the handbook of docs/documents.md in
the collection `handbook`, and SmolLM2:

    $ export HEARTH_KEY=KEY
    $ python3 -m examples.langchain_documents --collection handbook "Who should be called if I am ill?"
    The person who is most likely to be called if you are ill is Maria.

    [1] handbook.pdf, page 2
    Illness

    If you are ill, call Maria before 6 in the morning.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from getpass import getpass
from typing import Any

import requests
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableBranch, RunnablePassthrough
from langchain_openai import ChatOpenAI
from openai import OpenAIError
from pydantic import SecretStr

# What is in the metadata of a document: file (its id), name, page (None for kinds without pages), start, end, score.
METADATA = ("file", "name", "page", "start", "end", "score")
PROMPT = ChatPromptTemplate.from_template("Passages:\n\n{passages}\n\nAnswer the question from the passages.\n\n{question}")
NOTHING = "No passage has the words of the question."


class HearthRetriever(BaseRetriever):
    """Finds passages of the key's files by `POST /search`; `collection` None searches all of them."""

    url: str
    key: SecretStr
    collection: str | None = None
    k: int = 5

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        body = {"query": query, "collection": self.collection, "k": self.k}
        passages = _send("POST", f"{self.url}/search", self.key, json=body)["passages"]
        return [Document(page_content=each["text"], metadata={name: each[name] for name in METADATA}) for each in passages]


def answering_chain(retriever: HearthRetriever, model: str) -> Runnable[str, dict[str, Any]]:
    """Return a chain from a question to {"question", "documents", "answer"}. `model` is a profile of the server."""
    llm = ChatOpenAI(base_url=f"{retriever.url}/v1", api_key=retriever.key, model=model, temperature=0)
    found = RunnablePassthrough.assign(documents=lambda given: retriever.invoke(given["question"]))
    numbered = RunnablePassthrough.assign(passages=lambda given: _numbered(given["documents"]))
    answer = RunnableBranch(
        # A model that is given nothing would make an answer up.
        (lambda given: not given["documents"], lambda _: NOTHING),
        numbered | PROMPT | llm | StrOutputParser(),
    )
    return {"question": RunnablePassthrough()} | found.assign(answer=answer)


def main() -> int:
    """Print the answer to a question, and the passages that it was written from."""
    parser = argparse.ArgumentParser(description="Answer a question from files of a Hearth server, with LangChain.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:5000")
    parser.add_argument("--collection", help="the files to search; without it all files of the key")
    parser.add_argument("--model", help="a profile; without it the selected one")
    parser.add_argument("-k", type=int, default=3, help="passages in the prompt (%(default)s)")
    options = parser.parse_args()
    # Not an argument: other users of the machine could read it there.
    key = SecretStr(os.environ.get("HEARTH_KEY") or getpass("your key> "))
    try:
        model = options.model or _send("GET", f"{options.url}/models", key)["selected"]
        retriever = HearthRetriever(url=options.url, key=key, collection=options.collection, k=options.k)
        result = answering_chain(retriever, model).invoke(options.question)
    except (OSError, ValueError, OpenAIError) as error:
        print(f"[{error}]", file=sys.stderr)
        return 1
    print(result["answer"])
    if result["documents"]:
        print(f"\n{_numbered(result['documents'])}")
    return 0


def _send(method: str, url: str, key: SecretStr, **arguments: Any) -> dict[str, Any]:
    """Send a request; return the reply's body. Raises OSError, and ValueError with the server's message."""
    headers = {"Authorization": key.get_secret_value()}
    reply = requests.request(method, url, headers=headers, timeout=600, **arguments)
    if not reply.ok:
        raise ValueError(reply.json()["message"])
    return dict(reply.json())


def _numbered(documents: Sequence[Document]) -> str:
    """Return passages as the prompt has them: [1] NAME, page N, and the text."""
    texts = []
    for number, document in enumerate(documents, 1):
        page = f", page {document.metadata['page']}" if document.metadata["page"] else ""
        texts.append(f"[{number}] {document.metadata['name']}{page}\n{document.page_content}")
    return "\n\n".join(texts)


if __name__ == "__main__":
    sys.exit(main())
