"""The steps of the graph as functions on Arrow tables, runnable without Ray.

A failed item travels on as a row with its error; only ``ItemError`` is caught.

May import: what ``run`` may import.
"""
