"""How well passages are found that answer questions about documents, and how well answers cite them."""
