"""From a request to an answer: what is prepared, who is answered when, and the exchange stored."""
