"""The CAT paper: "CAT: Customized Adversarial Training for Improved Robustness".

arXiv 2002.06789v1.
"""

from pathlib import Path

from bench.papers import Paper

PAPER = Paper(
    name="cat",
    title="The CAT paper (arXiv 2002.06789)",
    folder=Path(__file__).parent,
    artefacts="bench.papers.cat.artefacts",
    datasets="bench.papers.cat.gaussians",
    archs="bench.papers.cat.linear",
    measures="bench.papers.cat.measures",
)
