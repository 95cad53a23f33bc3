"""Helpers around parameters and gradients."""

from lowgrad.nn.utils.gradients import clip_grad_norm_, clip_grad_value_, get_total_norm
from lowgrad.nn.utils.vectors import parameters_to_vector, vector_to_parameters

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_total_norm",
    "parameters_to_vector",
    "vector_to_parameters",
]
