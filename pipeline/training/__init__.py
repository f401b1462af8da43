"""Makes weights: mvanet-lite, the refiner cgm, the quality estimator.

Inference never imports it.

May import: ``models``, ``manifest``, ``quality`` and what they may import.
"""
