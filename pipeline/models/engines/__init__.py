"""Inference engines: OpenVINO for CPUs, ONNX Runtime for ONNX files. PyTorch itself needs no wrapper.

Each takes frames and gives logits, like every model.

May import: ``models`` and what it may import.
"""
