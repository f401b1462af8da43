"""Prebuilt graphs: the bundled networks and everything around them as ONNX files, so that a CPU needs no PyTorch.

``make`` exports them from the modules in PyTorch (``make graphs``). ``bundled`` finds them, and ``graph`` runs them.

May import: ``models`` and what it may import. Only ``make`` and ``modules`` may import PyTorch.
"""
