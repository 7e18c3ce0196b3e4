"""One paper, one file. The contract is in bench/method.py."""
