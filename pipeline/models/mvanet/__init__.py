"""MVANet (arXiv 2404.07445): network, Swin backbone, published checkpoints.

No other package knows its layers or key names.

May import: ``models`` and what it may import.
"""
