"""How a plan is made.

resolve.py selects and orders; service_checks.py, stack_checks.py and budget.py find what is wrong; plan.build
joins them.
"""
