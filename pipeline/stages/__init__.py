"""Batch in, batch out: the steps of the flow as functions on Arrow tables, runnable without Ray.

A failed item travels on as a row with its error; only ``ItemError`` is caught.
"""
