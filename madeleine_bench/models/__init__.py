"""Neural networks only: tensors in, tensors out."""
