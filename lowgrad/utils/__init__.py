"""What training programs need beside the model: data loading."""

from lowgrad.utils import data as data
