"""The only shape of a result: plain frozen data without tensors, which the server's replies embed.

A field is documented here and nowhere else. Whoever computes a result exports its record as well:
`from saescope.evals import Evaluation`. A reply that says more than a record inherits it; a record
that is the base of a whole reply has no slots, for pydantic's models have their own.
"""
