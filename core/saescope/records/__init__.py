"""The only shape of a result: plain frozen data without tensors, which the server's replies embed.

A field is documented here and nowhere else. Whoever computes a result exports its record as well:
`from saescope.evals import Evaluation`.
"""
