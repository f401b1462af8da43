"""MVANet (arXiv 2404.07445): network, Swin backbone, published checkpoints.

The only place that knows its layers and key names.

May import: ``models`` and what it may import.
"""
