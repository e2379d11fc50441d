"""What is measured of parameters.

`evaluator.Evaluator` is the contract, `workflows.evaluators` the list.
"""
