"""Train mvanet-lite, the refiner cgm and the quality estimator. See ``README.md`` in this folder.

Inference never imports this package.

May import: ``models``, ``manifest``, ``quality`` and what they may import.
"""
