"""Kubernetes as a `Cluster`."""
