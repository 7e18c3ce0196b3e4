from pathlib import Path

from bench.papers import Paper

PAPER = Paper(
    name="cat",
    title="The CAT paper (arXiv 2002.06789)",
    folder=Path(__file__).parent,
    artefacts="bench.papers.cat.artefacts",
)
