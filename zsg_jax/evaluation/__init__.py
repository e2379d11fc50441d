"""What is measured of parameters.

`evaluator.Evaluator` is the contract, `workflows.study.evaluators` the list.
"""
