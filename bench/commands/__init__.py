"""The commands of `bench`. Slow imports are inside the functions."""
