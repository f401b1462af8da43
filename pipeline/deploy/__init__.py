"""Kubernetes manifests: ``infra/`` rendered by Kustomize with a user's values, and checked without a cluster.

May import: the modules at the root.
"""
