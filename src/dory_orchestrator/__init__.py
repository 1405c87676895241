"""Keeps stateful processors alive across edge and cloud."""

from importlib.metadata import version

__version__ = version("dory-orchestrator")
