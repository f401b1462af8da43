"""Review outputs: report page, comparison of two outputs, imported reviews, sampling plans. Masks are never changed.

May import: ``run``, ``output`` and what they may import.
"""
