"""Whether methods and attacks still do what they did: short runs against pinned facts."""

from bench.verify.comparison import Verdict, verify

__all__ = ["Verdict", "verify"]
