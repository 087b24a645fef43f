from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.api.http.schemas import AnswerBody
from services.validation import explain


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({}, "prompt", "prompt: is missing"),
        ({"prompt": "a", "foo-bar": 1}, "foo-bar", "foo-bar: there is no such field"),
        ({"prompt": "a", "max tokens": 1}, "max tokens", "max tokens: there is no such field; did you mean max_tokens?"),
        # As pydantic calls the members of unions.
        ({"prompt": "a", "Prompt": 1}, "Prompt", "Prompt: there is no such field; did you mean prompt?"),
        ({"prompt": "a", "int": 1}, "int", "int: there is no such field"),
        (
            {"prompt": "a", "expires_after[anchor]": 1},
            "expires_after[anchor]",
            "expires_after[anchor]: there is no such field",
        ),
        ({"prompt": "a", "stop": ["x", 5]}, "stop.1", "stop.1: input should be a valid string"),
        ({"prompt": "a", "stop": 5}, "stop", "stop: should be a text or a list of texts"),
        ({"prompt": " "}, "prompt", "prompt: the prompt is empty"),
        ({"prompt": "a", "top_p": 2}, "top_p", "top_p: input should be less than or equal to 1"),
    ],
)
def test_the_fault_is_named_and_what_was_given_is_not_repeated(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AnswerBody.model_validate(fields)
    fault = explain(caught.value, AnswerBody.model_fields)
    assert (fault.field, fault.message) == (field, says)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert AnswerBody.model_validate({"prompt": "a", "stop": "x"}).stop == ["x"]
