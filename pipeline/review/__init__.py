"""People look: report page, comparison of two outputs, imported reviews, sampling plans.

Reads outputs and writes pages; never changes masks.

May import: ``run``, ``output`` and what they may import.
"""
