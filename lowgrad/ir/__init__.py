"""The Graph language: types, graphs, ops, text, and what they mean."""

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import interpret
from lowgrad.ir.text import parse
from lowgrad.ir.types import TensorType
from lowgrad.ir.verify import verify

__all__ = ["Graph", "Node", "TensorType", "Value", "interpret", "parse", "verify"]
