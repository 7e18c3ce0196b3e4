"""Training: from a specification to the weights of a best and a last checkpoint."""
