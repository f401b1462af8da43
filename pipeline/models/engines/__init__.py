"""Inference engines: OpenVINO for CPUs, ONNX Runtime for ONNX files. PyTorch needs no wrapper.

Each takes frames and returns logits, as every model does.

May import: ``models`` and what it may import.
"""
