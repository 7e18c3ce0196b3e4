"""Speed measured in a checkout: `python -m benchmarks.NAME --help`.

steps    a training step next to a plain loop of the same update
attacks  PGD-20 next to torchattacks, foolbox and ART; AutoAttack next to its package
memory   the peak memory of a step
profile  where the time of a step goes, by kind of operation
scaling  how a step grows with batch, network, attack steps and image size
launches kernels that a GPU is given, counted without one
gpu      training steps and PGD-20 on a GPU, in five minutes
layers   each layer's speed next to what the machine reaches
report   seconds of `bench report` and `bench --help`

Records go to results/speed; `make docs` makes docs/explanation/speed.md and scaling.md of them.
"""

import bench.cli  # noqa: F401  sets how OpenMP threads wait, before torch is loaded
